"""What a MixtureNorm keeps of each batch, by loops."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import queue as reference
from mn_lightning.kernels.cpu import layout
from mn_lightning.kernels.types import Mixture, Ring
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


def enqueue(x: Tensor, step: Tensor, finite: Tensor | bool, ring: Ring) -> None:
    """:func:`mn_lightning.kernels.queue.enqueue`."""
    in_rows = layout.lies_in_rows(x)
    # NumPy knows no bfloat16, and numba no float16.
    if ring.rows.dtype not in (torch.float32, torch.float64) or not (in_rows or x.is_contiguous()):
        reference.enqueue(x, step, finite, ring)
        return
    if not finite:
        return
    pushes, rows, counts, totals = (state.numpy() for state in ring)
    channels = x.shape[1]
    total = x.numel() // channels
    count = min(total, rows.shape[1])
    slot = int(pushes) % len(rows)
    values = layout.rows(x).reshape(-1, channels) if in_rows else layout.planes(x)
    _keep(values, int(step), Stream.QUEUE_ROWS, count, rows[slot])
    counts[slot] = count
    totals[slot] = total
    pushes += 1
