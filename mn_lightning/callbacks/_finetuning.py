"""Make Lightning's finetuning callbacks freeze and train swapped layers as they do with BatchNorm."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.swap.record import is_swapped

_METHODS = ("freeze_before_training", "finetune_function")


def treat_as_batch_norm(finetuning: BaseFinetuning) -> None:
    """Make ``finetuning`` treat swapped layers as it treats the BatchNorm layers that they replace.

    It looks at the class of a layer: BatchNorm stays trainable with ``train_bn=True``, and keeps its statistics while
    it is frozen.
    """
    for name in _METHODS:
        setattr(finetuning, name, partial(_with_stand_ins, getattr(type(finetuning), name), finetuning))


def forget_treatment(finetuning: BaseFinetuning) -> None:
    """Undo :func:`treat_as_batch_norm`."""
    for name in _METHODS:
        vars(finetuning).pop(name, None)


def _with_stand_ins(method: Callable[..., None], finetuning: BaseFinetuning, module: nn.Module, *args: Any) -> None:
    with _stand_ins(module):
        method(finetuning, module, *args)


class _StandIn(nn.BatchNorm1d):
    """A BatchNorm with the parameters of another layer, so that these are treated as BatchNorm's."""

    def __init__(self, layer: Any) -> None:
        super().__init__(1, affine=False)
        self.track_running_stats = getattr(layer, "track_running_stats", True)
        after = getattr(layer, "_after_norm", ())
        for name in after:  # the layer's own modules, such as an activation with a parameter
            self.add_module(name, layer.get_submodule(name))
        for name, parameter in layer.named_parameters():
            if name.split(".")[0] not in after:
                self.register_parameter(name.replace(".", "_"), parameter)


@contextmanager
def _stand_ins(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if _takes_batch_norms_place(module)]
    stand_ins: dict[Any, _StandIn] = {layer: _StandIn(layer) for layer in layers}
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child in stand_ins
    ]
    try:
        for parent, name, layer in places:
            parent._modules[name] = stand_ins[layer]
        yield
    finally:
        for parent, name, layer in places:
            parent._modules[name] = layer
        for layer, stand_in in stand_ins.items():
            if hasattr(layer, "track_running_stats"):
                layer.track_running_stats = stand_in.track_running_stats


def _takes_batch_norms_place(module: nn.Module) -> bool:
    ours = isinstance(module, (MixtureNorm, ModeNorm, ModeGroupNorm))
    return ours or (is_swapped(module) and not isinstance(module, _BatchNorm))
