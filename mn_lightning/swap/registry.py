"""The norms that a BatchNorm can be swapped for, by name."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.utils.checks import check_at_least

Builder = Callable[..., nn.Module]
"""Called with the BatchNorm layer to replace and keyword arguments; returns the layer to put in its place."""


def _batch(batch_norm: _BatchNorm, momentum: float | None = None) -> nn.Module:
    """Leave the layer where it is; the swap itself sets the momentum, once everything is planned."""
    return batch_norm


def _instance(batch_norm: _BatchNorm) -> nn.Module:
    # GroupNorm with a group per channel is InstanceNorm for inputs of any rank.
    return _group(batch_norm, batch_norm.num_features)


def _layer(batch_norm: _BatchNorm) -> nn.Module:
    return _group(batch_norm, 1)


def _group(batch_norm: _BatchNorm, num_groups: int | None = None, channels_per_group: int | None = None) -> nn.Module:
    channels = batch_norm.num_features
    if channels_per_group is not None:
        if num_groups is not None:
            raise ValueError("GroupNorm got num_groups and channels_per_group; it takes one of them")
        check_at_least("GroupNorm", "channels_per_group", channels_per_group, 1)
        sizes = [size for size in range(1, channels + 1) if channels % size == 0]
        num_groups = channels // min(sizes, key=lambda size: abs(size - channels_per_group))
    elif num_groups is not None:
        check_at_least("GroupNorm", "num_groups", num_groups, 1)
    # Two groups are what Deecke et al. give GroupNorm in Section 4.1.
    layer = nn.GroupNorm(num_groups or 2, channels, eps=batch_norm.eps, affine=batch_norm.affine)
    layer.register_forward_pre_hook(_refuse_single_values)
    return layer


def _refuse_single_values(layer: Any, inputs: tuple[Tensor, ...]) -> None:
    """A single value minus its own mean is 0, so torch would return a constant."""
    values = layer.num_channels // layer.num_groups * inputs[0].shape[2:].numel()
    if values == 1:
        raise ValueError(
            f"GroupNorm({layer.num_groups}, {layer.num_channels}) got input of shape {tuple(inputs[0].shape)}, a "
            "single value per group and sample, which it would make 0; use larger groups, or another norm here"
        )


_NORMS: dict[str, Builder] = {
    "mixture": MixtureNorm.from_batch_norm,
    "mode": ModeNorm.from_batch_norm,
    "mode_group": ModeGroupNorm.from_batch_norm,
    "batch": _batch,
    "instance": _instance,
    "layer": _layer,
    "group": _group,
}


def register_norm(name: str, builder: Builder) -> None:
    """Make a norm of your own known to ``swap_norms`` and ``NormSwapCallback`` under ``name``.

    Args:
        name: the value for ``norm``.
        builder: called as ``builder(batch_norm, **norm_args)`` with the layer to replace (for its ``num_features``,
            ``eps`` and running statistics); returns the new layer. Device, dtype and training flag are carried over
            afterwards, and also weight and bias if the new layer has parameters ``weight`` and ``bias`` of the same
            shape.

    Raises:
        ValueError: the name is taken.

    Examples:
        >>> register_norm("local_response", lambda batch_norm, size=5: nn.LocalResponseNorm(size))
        >>> norm_arguments("local_response")
        {'size'}
    """
    if name in _NORMS:
        raise ValueError(f"register_norm got {name!r}, which is taken; the names in use are {', '.join(_NORMS)}")
    _NORMS[name] = builder


def norm_builder(name: str) -> Builder:
    """Look a norm up by name, or by the import path of a class.

    A class is called with the number of channels, and with BatchNorm's ``eps`` if it takes one.

    Raises:
        ValueError: the name is unknown (the message lists the known ones); the import path is not that of a module
            class.

    Examples:
        >>> norm_builder("group")(nn.BatchNorm2d(8), num_groups=4).num_groups
        4
        >>> norm_builder("torch.nn.InstanceNorm2d")(nn.BatchNorm2d(8, eps=1e-3)).eps
        0.001
    """
    if name in _NORMS:
        return _NORMS[name]
    if "." not in name:
        raise ValueError(
            f"unknown norm {name!r}; the known norms are {', '.join(_NORMS)}, and any class by its import path"
        )
    kind = _imported(name)

    def build(batch_norm: _BatchNorm, **arguments: Any) -> nn.Module:
        if "eps" in inspect.signature(kind).parameters:
            arguments.setdefault("eps", batch_norm.eps)
        return kind(batch_norm.num_features, **arguments)

    return build


def is_known(name: str) -> bool:
    """Whether ``name`` can be looked up without an import: a name that was read from a file must not import anything.

    Examples:
        >>> is_known("mixture"), is_known("somewhere.else.Norm")
        (True, False)
    """
    return name in _NORMS or "." not in name or name.rpartition(".")[0] in sys.modules


def _imported(path: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"norm {path!r} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(
            f"norm {path!r} is not a class of torch modules; register a function with register_norm, and give its name"
        )
    return kind


def norm_arguments(name: str) -> set[str] | None:
    """Names of the keyword arguments that a norm takes; None if it takes any name.

    Examples:
        >>> sorted(norm_arguments("mode"))
        ['affine', 'eps', 'momentum', 'n_components', 'running', 'sync']
    """
    builder: Any = _imported(name) if name not in _NORMS and "." in name else norm_builder(name)
    owner = getattr(builder, "__self__", None)
    parameters = inspect.signature(owner if inspect.isclass(owner) else builder).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    after_the_first = list(parameters)[1:]  # the first argument is num_features or the layer to replace
    return {p for p in after_the_first if p not in ("device", "dtype")}


def check_norm_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the norm does not take, with a line that says which ones it takes.

    Raises:
        ValueError: the norm or an argument is unknown.

    Examples:
        >>> check_norm_arguments("group", {"groups": 4})
        Traceback (most recent call last):
        ValueError: norm 'group' got groups; it takes channels_per_group, num_groups
    """
    accepted = norm_arguments(name)
    unknown = [] if accepted is None else sorted(set(arguments) - accepted)
    if unknown:
        takes = ", ".join(sorted(accepted or ())) or "no arguments"
        raise ValueError(f"norm {name!r} got {', '.join(unknown)}; it takes {takes}")
