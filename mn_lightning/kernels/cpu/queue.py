"""What a MixtureNorm keeps of each batch, by loops."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import queue as reference
from mn_lightning.kernels.types import Mixture
from mn_lightning.utils.random import Stream


@np.errstate(all="ignore")
def all_finite(of: Mixture) -> Tensor:
    """Whether all numbers of a mixture are finite: 0-d bool."""
    # A sum is finite if all its terms are, up to an overflow, which is no mixture to keep either.
    return torch.tensor(bool(np.isfinite(of.means.numpy().sum() + of.variances.numpy().sum())))


def enqueue(x: Tensor, step: Tensor, finite: Tensor, pushes: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Copy rows of ``x``, if it is ``finite``, into slot ``pushes`` of a ring ``rows (size, capacity, C)``."""
    from mn_lightning.kernels.cpu.loops import queue

    loops: Any = queue
    in_rows = x.movedim(1, -1).is_contiguous()
    # NumPy knows no bfloat16, and numba no float16.
    if rows.dtype not in (torch.float32, torch.float64) or not (in_rows or x.is_contiguous()):
        reference.enqueue(x, step, finite, pushes, rows, counts)
        return
    if not finite:
        return
    samples, channels = x.shape[:2]
    count = min(x.numel() // channels, rows.shape[1])
    slot = int(pushes) % len(rows)
    if in_rows:
        keep, values = loops.keep_rows, x.movedim(1, -1).reshape(-1, channels)
    else:
        keep, values = loops.keep_planes, x.reshape(samples, channels, -1)
    keep(values.numpy(), int(step), int(Stream.QUEUE_ROWS), count, rows[slot].numpy())
    counts[slot] = count
