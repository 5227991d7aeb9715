"""Look at what a state dict brings for a layer, before it is loaded."""

from collections.abc import Iterable
from typing import Any

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


def pass_over_record(layer: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook of our layers before weights are loaded: what a swap has saved fits a layer that stood there from the start.

    ``state_dict`` is ``load_state_dict``'s own copy.
    """
    state_dict.pop(prefix + SWAP_RECORD, None)
