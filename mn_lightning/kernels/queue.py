"""What a MixtureNorm keeps of each batch: random rows in a ring, with torch's operations."""

import torch
from torch import Tensor

from mn_lightning.kernels.types import Mixture, Ring
from mn_lightning.utils.random import Stream, stratified


def all_finite(of: Mixture) -> Tensor:
    """Whether all numbers of a mixture are finite: 0-d bool."""
    return of.means.isfinite().all() & of.variances.isfinite().all()


def enqueue(x: Tensor, step: Tensor, finite: Tensor | bool, ring: Ring) -> None:
    """Copy rows of an activation into the next slot of a ring.

    Nothing here waits for the device or branches on data: where the batch is not finite, the slot's old content is
    written back.

    Args:
        x: ``(N, C, *)``; as many of its rows as the ring has place for are drawn at random, without replacement.
        step: int64 tensor with one element, of which the choice of rows is a function.
        finite: 0-d bool; where it is false, the ring stays as it is. True or False where that is known at once.
        ring: written to.
    """
    pushes, rows, counts, totals = ring
    finite = torch.as_tensor(finite, device=x.device)
    batch = x.movedim(1, -1)
    total, capacity = batch.shape[:-1].numel(), rows.shape[1]
    count = min(total, capacity)
    if total > capacity:
        chosen = _take_rows(batch, stratified(step, count, total, Stream.QUEUE_ROWS))
    else:
        chosen = batch.flatten(0, -2)
    slot = (pushes % len(rows)).reshape(1)
    old = rows.index_select(0, slot)
    new = torch.cat([chosen.to(old.dtype), old[0, count:]])[None]
    rows.index_copy_(0, slot, torch.where(finite, new, old))
    for state, value in ((counts, count), (totals, total)):
        before = state.index_select(0, slot)
        state.index_copy_(0, slot, torch.where(finite, torch.full_like(before, value), before))
    pushes.add_(finite)


def _take_rows(batch: Tensor, index: Tensor) -> Tensor:
    """Rows of ``(N, *, C)`` by flat index over ``(N, *)``, without making a contiguous copy of the batch."""
    inner = batch.shape[1:-1].numel()
    flat = batch.flatten(1, -2) if batch.dim() > 3 else batch
    if flat.dim() == 2:
        return flat[index]
    return flat[index // inner, index % inner]
