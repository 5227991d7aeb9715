"""Parameters of a norm as arrays."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
        dtype: torch.dtype,
    ) -> None:
        self.parameters = parameters
        self.arrays = [
            torch.full((channels,), default or 0.0, dtype=dtype).numpy() if p is None else _copy(p, dtype)
            for p, default in zip(parameters, defaults, strict=True)
        ]

    def empty(self) -> list[np.ndarray]:
        """Arrays for the gradients."""
        return [np.empty_like(array) for array in self.arrays]

    def gradients(self, arrays: Sequence[np.ndarray]) -> list[Tensor | None]:
        """Make tensors of arrays from :meth:`empty`; None for a parameter that wants no gradient."""
        return [
            torch.from_numpy(array).to(p.dtype).reshape(p.shape) if p is not None and p.requires_grad else None
            for p, array in zip(self.parameters, arrays, strict=True)
        ]


def _copy(parameter: Tensor, dtype: torch.dtype) -> np.ndarray:
    # A copy: memory that NumPy has seen cannot be resized, as sharded training does it with parameters.
    array: np.ndarray = parameter.detach().to(dtype, copy=True).contiguous().numpy()
    return array if array.ndim == 2 else array.reshape(-1)
