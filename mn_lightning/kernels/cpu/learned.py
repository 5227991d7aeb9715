"""Parameters of a norm as arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels.cpu.layout import torch_type


class Learned:
    """Parameters as arrays of the activation's type, and their gradients as the parameters want them.

    Args:
        parameters: matrices ``(K, C)``, and vectors of any rank; None where the norm has none.
        defaults: the value that stands for a vector that there is not.
        channels: C.
        dtype: of the activation.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor | None],
        defaults: Sequence[float | None],
        channels: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.parameters = parameters
        given = [p.reshape(-1) for p in parameters if p is not None]
        # A copy: memory that NumPy has seen cannot be resized, as sharded training does it with parameters.
        copied: Any = torch.cat(given).detach().to(torch_type(dtype)).numpy() if given else None
        self.arrays: list[np.ndarray] = []
        start = 0
        for parameter, default in zip(parameters, defaults, strict=True):
            if parameter is None:
                self.arrays.append(np.full(channels, default, dtype))
                continue
            array = copied[start : start + parameter.numel()]
            self.arrays.append(array.reshape(parameter.shape) if parameter.dim() == 2 else array)
            start += len(array)

    def empty(self) -> list[np.ndarray]:
        """Arrays for the gradients."""
        return [np.empty_like(array) for array in self.arrays]

    def gradients(self, arrays: Sequence[np.ndarray]) -> list[Tensor | None]:
        """Make tensors of arrays from :meth:`empty`; None for a parameter that wants no gradient."""
        return [
            _like(p, array) if p is not None and p.requires_grad else None
            for p, array in zip(self.parameters, arrays, strict=True)
        ]


def _like(parameter: Tensor, array: np.ndarray) -> Tensor:
    """An array as a tensor of a parameter's shape and type."""
    found = torch.from_numpy(array)
    if found.dim() != parameter.dim():
        found = found.reshape(parameter.shape)
    return found if found.dtype == parameter.dtype else found.to(parameter.dtype)
