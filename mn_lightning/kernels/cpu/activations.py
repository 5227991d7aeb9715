"""The activations that the loops know: those that do nothing but multiply negative numbers with a constant."""

import torch
import torch.nn.functional as F
from torch import nn

from mn_lightning.kernels.types import Activation


def leak_of(activation: Activation | None) -> float | None:
    """What an activation multiplies negative numbers with; None if there is no activation, or it is another one.

    Examples:
        >>> leak_of(nn.ReLU()), leak_of(nn.LeakyReLU(0.2)), leak_of(torch.tanh)
        (0.0, 0.2, None)
    """
    if activation in (torch.relu, F.relu):
        return 0.0
    if not isinstance(activation, nn.Module) or activation._forward_hooks or activation._forward_pre_hooks:
        return None
    if type(activation) is nn.LeakyReLU:
        return float(activation.negative_slope)
    return 0.0 if type(activation) is nn.ReLU else None


def knows(activation: Activation | None) -> bool:
    """Whether the loops can do this activation, or there is none."""
    return activation is None or leak_of(activation) is not None
