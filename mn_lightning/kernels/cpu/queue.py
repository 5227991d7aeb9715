"""What a MixtureNorm keeps of each batch, by loops."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import queue as reference
from mn_lightning.kernels.cpu import layout
from mn_lightning.kernels.types import Mixture
from mn_lightning.utils.random import Stream


@np.errstate(all="ignore")
def all_finite(of: Mixture) -> bool:
    """Whether all numbers of a mixture are finite."""
    # A sum is finite if all its terms are, up to an overflow, which is no mixture to keep either.
    return bool(np.isfinite(of.means.numpy().sum() + of.variances.numpy().sum()))


def taken(values: np.ndarray, step: int, stream: int, count: int) -> np.ndarray:
    """``count`` of the rows of planes ``(N, D, L)`` or rows ``(M, D)``, at random without replacement."""
    kept = np.empty((count, values.shape[1]), values.dtype)
    _keep(values, step, stream, count, kept)
    return kept


def _keep(values: np.ndarray, step: int, stream: int, count: int, slot: np.ndarray) -> None:
    from mn_lightning.kernels.cpu.loops import queue

    loops: Any = queue
    keep = loops.keep_planes if values.ndim == 3 else loops.keep_rows
    keep(values, step, int(stream), count, slot)


def enqueue(x: Tensor, step: Tensor, finite: Tensor | bool, pushes: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Copy rows of ``x``, if it is ``finite``, into slot ``pushes`` of a ring ``rows (size, capacity, C)``."""
    in_rows = layout.lies_in_rows(x)
    # NumPy knows no bfloat16, and numba no float16.
    if rows.dtype not in (torch.float32, torch.float64) or not (in_rows or x.is_contiguous()):
        reference.enqueue(x, step, torch.as_tensor(finite), pushes, rows, counts)
        return
    if not finite:
        return
    channels = x.shape[1]
    count = min(x.numel() // channels, rows.shape[1])
    slot = int(pushes) % len(rows)
    values = layout.rows(x).reshape(-1, channels) if in_rows else layout.planes(x)
    _keep(values, int(step), Stream.QUEUE_ROWS, count, rows.numpy()[slot])
    counts.numpy()[slot] = count
