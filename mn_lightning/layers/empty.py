"""A batch without rows, as a process may have one at the end of an epoch."""

from torch import Tensor, nn


def is_empty(input: Tensor) -> bool:
    """Whether there is nothing to take moments of."""
    return input.numel() == 0


def unchanged(input: Tensor, layer: nn.Module) -> Tensor:
    """Return an empty ``input`` as BatchNorm does: all parameters have a gradient, of zeros."""
    return input + sum((parameter.flatten()[:0].sum() for parameter in layer.parameters()), input.new_zeros(()))
