"""Statistics of norm layers taken anew, for weights that have stopped changing."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.layers import MixtureNorm, ModeNorm
from mn_lightning.layers.calling import call_model
from mn_lightning.layers.refit import mixture_layers, refit_mixtures, reset_queues
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.restore import modes_untouched

_Averaging: TypeAlias = _BatchNorm | ModeNorm


@torch.no_grad()
def update_norms(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object] | None = None) -> int:
    """Take the statistics that evaluation uses anew from ``batches``, with the weights as they are.

    Those that a training leaves behind are of the weights of its last steps, which were still changing. Where they
    changed fast, or were averaged, evaluation is better with statistics of the final weights: for BatchNorm this is
    known as precise BatchNorm (Wu & Johnson, arXiv:2105.07576), and ``torch.optim.swa_utils.update_bn`` does it. Here
    ModeNorm and MixtureNorm take part.

    The batches go through the model in training mode and without gradients. The running moments of BatchNorm and
    ModeNorm become averages over all batches with equal weight; the mixture of each MixtureNorm is fitted to the last
    ``queue_size`` of them, and the queues hold them afterwards. Other layers with statistics of their own, such as
    norms from the registry, see the batches as in training. A training that goes on afterwards is not changed by it:
    MixtureNorm's count of batches, of which its random choices are a function, is put back.

    Under torch.distributed, every process must call it, each with batches of its own: all end with averages over the
    batches of all, and mixtures fitted to the queues of all.

    Args:
        model: any module. If it is in training mode, the layers in it that are not are left alone, and so are those
            with ``track_running_stats=False``: someone keeps their statistics.
        batches: what the model is called with: tensors; tuples and lists that begin with one, as a ``DataLoader``
            gives, of which the rest is left out; or mappings, whose entries become keyword arguments. They should be
            about as large as those of the training, and are moved to the model's device. For a model that takes
            something else, give what it takes for each batch, as in ``update_norms(model.generator, latents)``.
        forward: what is done with each batch; by default the model is called with its inputs.

    Returns:
        How many layers have new statistics.

    Raises:
        ValueError: if there is no batch.
        TypeError: if a batch is something else. After this or any other error all layers have their former statistics,
            and queues are empty.

    Examples:
        >>> from mn_lightning import swap_norms
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        >>> _ = swap_norms(model, norm="mixture", layers=["3"])
        >>> loader = torch.utils.data.DataLoader(torch.randn(64, 2), batch_size=32)
        >>> update_norms(model, loader)
        2
        >>> model[1].num_batches_tracked, model[3].stale
        (tensor(2), False)
    """
    kept = [module for module in model.modules() if _is_kept(module, model)]
    averaging = [module for module in model.modules() if _has_running_moments(module) and module not in kept]
    mixtures = [layer for layer in mixture_layers(model) if layer not in kept]
    if not averaging and not mixtures:
        return 0
    device = next(buffer.device for layer in (*averaging, *mixtures) for buffer in layer.buffers())
    reset_queues(model)
    with _restored_on_error(model, averaging), modes_untouched(model), _averages(averaging), _counts_kept(mixtures):
        model.train()
        for layer in kept:
            layer.eval()
        count = 0
        for batch in batches:
            if forward is None:
                call_model(model, batch, device)
            else:
                forward(batch)
            count += 1
        _average_over_processes(averaging, torch.tensor(count, device=device))
        refit_mixtures(model)
    return len(averaging) + len(mixtures)


def _is_kept(module: nn.Module, model: nn.Module) -> bool:
    """Whether someone has frozen a norm layer's statistics, by its mode or its flag."""
    if not isinstance(module, (_BatchNorm, ModeNorm, MixtureNorm)):
        return False
    without = isinstance(module, _BatchNorm) and module.running_mean is None  # its flag says that there are none
    return (model.training and not module.training) or not (module.track_running_stats or without)


def _has_running_moments(module: nn.Module) -> bool:
    return isinstance(module, _Averaging) and module.running_mean is not None


@contextmanager
def _averages(layers: list[Any]) -> Iterator[None]:
    """Let running moments begin anew, as cumulative averages."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextmanager
def _counts_kept(layers: list[MixtureNorm]) -> Iterator[None]:
    former = [layer.num_batches_tracked.clone() for layer in layers]
    try:
        yield
    finally:
        for layer, count in zip(layers, former, strict=True):
            layer.num_batches_tracked.copy_(count)


@contextmanager
def _restored_on_error(model: nn.Module, layers: list[Any]) -> Iterator[None]:
    former = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers()]
    try:
        yield
    except BaseException:
        for buffer, value in former:
            buffer.copy_(value)
        reset_queues(model)  # or the next refit would be to what came before the error
        raise


def _average_over_processes(layers: list[Any], count: Tensor) -> None:
    processes = all_processes()
    (total,) = processes.sum(count)
    if total == 0:
        raise ValueError("update_norms got no batch; give it a DataLoader or a list of batches, not a used up iterator")
    share = count / total
    for layer in layers:
        mean, var = processes.sum(layer.running_mean * share, layer.running_var * share)
        if getattr(layer, "running", "within") == "total":
            (between,) = processes.sum((layer.running_mean - mean).square() * share)
            var = var + between
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
