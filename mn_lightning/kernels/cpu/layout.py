"""How an activation lies in memory."""

import numpy as np
import torch
from torch import Tensor

_IN_ROWS = {2: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}


def torch_type(dtype: np.dtype) -> torch.dtype:
    """The same type of numbers, float32 or float64, by torch's name."""
    return torch.float64 if dtype.itemsize == 8 else torch.float32


def lies_in_rows(x: Tensor) -> bool:
    """Whether the C numbers of a row of ``(N, C, *)`` lie side by side, and the rows one after the other."""
    memory_format = _IN_ROWS.get(x.dim())
    if memory_format is None:
        return x.movedim(1, -1).is_contiguous()
    return x.is_contiguous(memory_format=memory_format)


def planes(x: Tensor) -> np.ndarray:
    """The numbers of ``(N, C, *)`` as an array ``(N, C, L)``; a copy if they do not lie like that."""
    array: np.ndarray = x.detach().contiguous().numpy()
    return array.reshape(*x.shape[:2], -1)


def rows(x: Tensor) -> np.ndarray:
    """The numbers of ``(N, C, *)`` as an array ``(N, L, C)``; a copy if they do not lie like that."""
    x = x.detach()
    array: np.ndarray = x.numpy() if lies_in_rows(x) else x.movedim(1, -1).contiguous().movedim(-1, 1).numpy()
    samples, channels = x.shape[:2]
    last: np.ndarray = array.transpose(0, *range(2, x.dim()), 1)
    return last.reshape(samples, -1, channels)


def empty_like(x: Tensor) -> Tensor:
    """A tensor of the strides of ``x``, or without gaps if ``x`` has some. No view: who gets it may write in place."""
    if x.is_contiguous() or lies_in_rows(x):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype)
