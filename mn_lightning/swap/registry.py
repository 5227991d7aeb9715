"""The norms that a BatchNorm can be swapped for, by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm

Builder = Callable[..., nn.Module]
"""Called with the BatchNorm layer to replace and keyword arguments; returns the layer to put in its place."""


def _batch(batch_norm: _BatchNorm, momentum: float | None = None) -> nn.Module:
    if momentum is not None:
        batch_norm.momentum = momentum
    return batch_norm


def _instance(batch_norm: _BatchNorm) -> nn.Module:
    # GroupNorm with a group per channel is InstanceNorm for inputs of any rank.
    return _group(batch_norm, batch_norm.num_features)


def _layer(batch_norm: _BatchNorm) -> nn.Module:
    return _group(batch_norm, 1)


def _group(batch_norm: _BatchNorm, num_groups: int = 2) -> nn.Module:
    # Two groups are what Deecke et al. give GroupNorm in Section 4.1.
    return nn.GroupNorm(num_groups, batch_norm.num_features, eps=batch_norm.eps, affine=batch_norm.affine)


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
    """Make a norm of one's own known to ``swap_norms`` and ``NormSwapCallback`` under ``name``.

    Args:
        name: what to write as ``norm``.
        builder: called as ``builder(batch_norm, **norm_args)`` with the layer to replace (for ``num_features``,
            ``eps``, running statistics); returns the new layer. Device, dtype, training flag and, if the new layer has
            parameters ``weight`` and ``bias`` of the same shape, these are carried over afterwards.

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
    """Look a norm up by name.

    Raises:
        ValueError: an unknown name; the message lists the known ones.

    Examples:
        >>> norm_builder("group")(nn.BatchNorm2d(8), num_groups=4).num_groups
        4
    """
    if name not in _NORMS:
        raise ValueError(f"unknown norm {name!r}; the known norms are {', '.join(_NORMS)}")
    return _NORMS[name]


def norm_arguments(name: str) -> set[str] | None:
    """Names of the keyword arguments that a norm takes; None if it takes any.

    Examples:
        >>> sorted(norm_arguments("mode"))
        ['affine', 'eps', 'momentum', 'n_components', 'running', 'sync']
    """
    builder = norm_builder(name)
    owner = getattr(builder, "__self__", None)
    parameters = inspect.signature(owner if inspect.isclass(owner) else builder).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    positional_first = list(parameters)[1:]  # the first is num_features or the layer to replace
    return {p for p in positional_first if p not in ("device", "dtype")}


def check_norm_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the norm does not take, with a line that says which it takes.

    Raises:
        ValueError: an unknown norm or argument.

    Examples:
        >>> check_norm_arguments("group", {"groups": 4})
        Traceback (most recent call last):
        ValueError: norm 'group' got groups; it takes num_groups
    """
    accepted = norm_arguments(name)
    unknown = [] if accepted is None else sorted(set(arguments) - accepted)
    if unknown:
        takes = ", ".join(sorted(accepted or ())) or "no arguments"
        raise ValueError(f"norm {name!r} got {', '.join(unknown)}; it takes {takes}")
