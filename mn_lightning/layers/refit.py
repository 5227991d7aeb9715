"""The mixtures of all MixtureNorm layers in a model: refit, reset, copy, synchronize."""

import torch
from torch import nn

from mn_lightning.layers.mixture import MixtureNorm
from mn_lightning.layers.mode import ModeNorm
from mn_lightning.utils.distributed import all_processes


def mixture_layers(model: nn.Module) -> list[MixtureNorm]:
    """Return the MixtureNorm layers in ``model``.

    Examples:
        >>> model = nn.Sequential(nn.BatchNorm1d(4), MixtureNorm(4))
        >>> mixture_layers(model) == [model[1]]
        True
    """
    return [module for module in model.modules() if isinstance(module, MixtureNorm)]


def refit_mixtures(model: nn.Module) -> int:
    """Refit the stored mixture of every MixtureNorm that is stale: that has seen batches since its last refit.

    Under torch.distributed, every process must call it: a layer that is stale in one is refitted in all of them, to all
    their queues.

    Args:
        model: any module.

    Returns:
        How many were refitted.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 4), MixtureNorm(4))
        >>> _ = model(torch.randn(32, 2))
        >>> refit_mixtures(model)
        1
        >>> refit_mixtures(model)  # it has seen nothing since
        0
    """
    layers = mixture_layers(model)
    if not layers:
        return 0
    stale = torch.tensor([layer.stale for layer in layers], dtype=torch.long, device=layers[0].queue.pushes.device)
    (stale,) = all_processes().sum(stale)
    return sum(layer.refit() for layer, needed in zip(layers, stale.tolist(), strict=True) if needed)


def reset_queues(model: nn.Module) -> None:
    """Empty the queue of every MixtureNorm in ``model``.

    Examples:
        >>> model = nn.Sequential(MixtureNorm(4))
        >>> _ = model(torch.randn(32, 4))
        >>> reset_queues(model)
        >>> refit_mixtures(model)
        0
    """
    for layer in mixture_layers(model):
        layer.reset_queue()


@torch.no_grad()
def copy_mixtures(source: nn.Module, target: nn.Module) -> None:
    """Give the MixtureNorm layers of ``target``, a copy of ``source``, the mixtures and queues of the latter.

    Args:
        source: a model.
        target: one with the same MixtureNorm layers in the same order.

    Raises:
        ValueError: another number of MixtureNorm layers.

    Examples:
        >>> source, target = nn.Sequential(MixtureNorm(4)), nn.Sequential(MixtureNorm(4))
        >>> _ = source(torch.randn(32, 4)), refit_mixtures(source)
        >>> copy_mixtures(source, target)
        >>> torch.equal(target[0].mixture_means, source[0].mixture_means)
        True
    """
    for layer, copied in zip(mixture_layers(source), mixture_layers(target), strict=True):
        if copied.queue.rows.shape != layer.queue.rows.shape:  # a queue of all rows grows with the batches
            copied.queue.rows = copied.queue.rows.new_empty(layer.queue.rows.shape)
        for buffer, value in zip(copied.buffers(), layer.buffers(), strict=True):
            buffer.copy_(value)


def set_sync(model: nn.Module, sync: bool) -> None:
    """Turn ``sync`` on or off in every MixtureNorm and ModeNorm in ``model``.

    Examples:
        >>> model = nn.Sequential(MixtureNorm(4), ModeNorm(4))
        >>> set_sync(model, True)
        >>> [layer.sync for layer in model]
        [True, True]
    """
    for module in model.modules():
        if isinstance(module, (MixtureNorm, ModeNorm)):
            module.sync = sync


def has_mixtures(model: nn.Module) -> bool:
    """Whether ``model`` holds a MixtureNorm.

    Examples:
        >>> has_mixtures(nn.Sequential(nn.BatchNorm1d(4))), has_mixtures(nn.Sequential(MixtureNorm(4)))
        (False, True)
    """
    return bool(mixture_layers(model))
