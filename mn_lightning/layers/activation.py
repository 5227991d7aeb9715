"""The activation inside a mixture norm is applied to each component's output, and has to leave it as it is."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def out_of_place(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return ``activation`` if it leaves its input as it is; of a module with ``inplace=True`` a copy that does.

    Raises:
        ValueError: a function that changes its input.
    """
    if isinstance(activation, nn.Module):
        if not any(getattr(module, "inplace", False) for module in activation.modules()):
            return activation
        activation = copy.deepcopy(activation)
        for module in activation.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        return activation
    if _changes_its_input(activation):
        raise ValueError(
            f"MixtureNorm got activation={activation!r}, which changes its input in place; give one that returns a new "
            "tensor, such as torch.nn.functional.relu"
        )
    return activation


@torch.no_grad()
def _changes_its_input(function: Callable[[Tensor], Any]) -> bool:
    x = torch.linspace(-3, 4, 8, device="cpu").reshape(2, 2, 2, 1)
    given = x.clone()
    try:
        function(given)
    except Exception:  # it takes something else, such as tensors on another device: the layer will say so
        return False
    return not torch.equal(given, x)
