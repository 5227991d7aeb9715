"""What a state dict brings for a layer: a mixture that is one, or BatchNorm's statistics, or a swap's record."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mn_lightning.kernels.types import Mixture

SWAP_RECORD = "_swapped_for"
"""Last part of the key under which a swap is recorded in a state dict; see :mod:`mn_lightning.swap.record`."""

_WEIGHT_TOLERANCE = 0.02
"""Weights that were rounded to bfloat16 add up to 1 within this."""


def mixture_fault(parameters: Iterable[Any]) -> str:
    """Say why loaded values are no mixture.

    Args:
        parameters: weights, means and variances as a state dict holds them.

    Returns:
        The fault, to be put into a message. Empty for a mixture, and where values are missing or on ``meta``.
    """
    values = list(parameters)
    if not all(type(value) in (Tensor, nn.Parameter) and not value.is_meta for value in values):
        return ""
    mixture = Mixture(*(value.detach().float() for value in values))
    for name, value in zip(Mixture._fields, mixture, strict=True):
        if not value.isfinite().all():
            return f"{name} that are not finite"
    for name, value in (("weight", mixture.weights), ("variance", mixture.variances)):
        if (value < 0).any():
            return f"a {name} of {float(value.min()):.3g}"
    totals = mixture.weights.sum(0).flatten()
    if ((totals - 1).abs() > _WEIGHT_TOLERANCE).any():
        return f"weights that add up to {float(totals[(totals - 1).abs().argmax()]):.3g}"
    return ""


def before_loading(layer: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Make what a state dict holds for ``layer`` fit it: a hook of our layers, and of all that a swap puts in.

    The record of a swap is no weight, and is passed over. Where the state dict holds a BatchNorm, its running moments
    become those of ``layer``, as in a swap: of all modes, or the only component of a mixture; for a layer without
    statistics they are left out. Gates, which BatchNorm has not, stay as they are.

    Args:
        layer: whose state is to be loaded.
        state_dict: ``load_state_dict``'s own copy.
        prefix: of the layer's keys in it.
    """
    state_dict.pop(prefix + SWAP_RECORD, None)
    keys = [f"{prefix}running_mean", f"{prefix}running_var"]
    moments = [state_dict.get(key) for key in keys]
    if not all(isinstance(value, Tensor) and value.dim() == 1 for value in moments):
        return
    own = {name: value for name, value in layer.state_dict().items() if name != SWAP_RECORD}
    if own.keys() >= {"running_mean", "running_var"} and own["running_mean"].dim() == 1:
        return  # it is a BatchNorm, or keeps the same statistics
    mean, var = (state_dict.pop(key) for key in keys)
    if "num_batches_tracked" not in own:
        state_dict.pop(f"{prefix}num_batches_tracked", None)
    for name, value in own.items():
        if name in ("weight", "log_weight", "bias"):
            continue
        state_dict.setdefault(prefix + name, _from_batch_norm(name, value, mean, var))


def _from_batch_norm(name: str, own: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """What the state ``name`` of a layer is after BatchNorm with these moments."""
    if mean.shape == own.shape[-1:]:
        if name in ("running_mean", "mixture_means"):
            return mean.expand(own.shape)
        if name in ("running_var", "mixture_variances"):
            return var.expand(own.shape)
    if name == "mixture_weights":
        weights = torch.zeros_like(own)
        weights[0] = 1
        return weights
    return own
