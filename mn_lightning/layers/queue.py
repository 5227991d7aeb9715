"""The queue of recent mini-batches from which inference refits its mixture (Section 3.2 of Kalayeh & Shah)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.parallel import DistributedDataParallel

from mn_lightning.kernels.select import backend_for_queue
from mn_lightning.kernels.types import Ring
from mn_lightning.utils.checks import check_at_least
from mn_lightning.utils.random import Stream, uniform

MAX_QUEUE_BYTES = 48 * 2**20
MAX_AUTO_ROWS = 1024

RowsPerBatch = int | Literal["auto"] | None


def rows_to_keep(rows_per_batch: RowsPerBatch, num_features: int, queue_size: int) -> int | None:
    """Rows of each batch to keep; ``"auto"`` is at most MAX_AUTO_ROWS, in a float32 queue of MAX_QUEUE_BYTES.

    Raises:
        ValueError: anything but a number >= 1, ``"auto"`` or ``None``.
    """
    if rows_per_batch is None:
        return None
    if rows_per_batch == "auto":
        return max(1, min(MAX_AUTO_ROWS, MAX_QUEUE_BYTES // (4 * num_features * queue_size)))
    check_at_least("MixtureNorm", "queue_rows_per_batch", rows_per_batch, 1, "'auto', None")
    return rows_per_batch


class BatchQueue(nn.Module):
    """A ring of row subsamples of the last ``size`` batches, kept in buffers that are not saved.

    Pushing neither synchronizes with the host nor branches on data: a batch that is not finite writes its slot's old
    content back and does not advance the ring.

    Args:
        num_features: length C of a row.
        size: number of batches kept.
        rows_per_batch: rows kept of each batch, drawn at random without replacement; ``None`` keeps all.
    """

    rows: Tensor
    counts: Tensor
    totals: Tensor
    pushes: Tensor
    pushes_when_fitted: Tensor

    def __init__(self, num_features: int, size: int, rows_per_batch: int | None) -> None:
        super().__init__()
        self.size = size
        self.rows_per_batch = rows_per_batch
        self.register_buffer("rows", torch.zeros(size, rows_per_batch or 0, num_features), persistent=False)
        self.register_buffer("counts", torch.zeros(size, dtype=torch.long), persistent=False)
        self.register_buffer("totals", torch.zeros(size, dtype=torch.long), persistent=False)
        self.register_buffer("pushes", torch.zeros((), dtype=torch.long), persistent=False)
        self.register_buffer("pushes_when_fitted", torch.zeros((), dtype=torch.long), persistent=False)

    def extra_repr(self) -> str:
        """Return size and rows per batch, in torch's form."""
        return f"size={self.size}, rows_per_batch={self.rows_per_batch}"

    @property
    def stale(self) -> bool:
        """Whether a batch has come in since the last :meth:`mark_fitted`; synchronizes with the host."""
        return self.behind != 0

    @property
    def behind(self) -> int:
        """How many batches have come in since the last :meth:`mark_fitted`; synchronizes with the host."""
        return int(self.pushes - self.pushes_when_fitted)

    def mark_fitted(self) -> None:
        """Record that the mixture has seen everything in the queue."""
        self.pushes_when_fitted.copy_(self.pushes)

    def reset(self) -> None:
        """Empty the queue."""
        for buffer in (self.counts, self.totals, self.pushes, self.pushes_when_fitted):
            buffer.zero_()

    @torch.no_grad()
    def push(self, input: Tensor, step: Tensor, finite: Tensor | bool) -> None:
        """Enqueue rows of an activation.

        Args:
            input: ``(N, C, *)``.
            step: int64 tensor with one element, of which the choice of rows is a function.
            finite: 0-d bool; where it is false, the queue stays as it is. True or False where that is known at once.
        """
        input = input.detach()
        total = input.numel() // input.shape[1]
        if self.rows_per_batch is None and total > self.rows.shape[1]:
            grown = self.rows.new_zeros(self.size, total, self.rows.shape[2])
            grown[:, : self.rows.shape[1]] = self.rows
            self.rows = grown
        ring = Ring(self.pushes, self.rows, self.counts, self.totals)
        backend_for_queue(input).enqueue(input, step, finite, ring)
        if type(self.pushes) is Tensor and not torch.compiler.is_compiling():
            increment_version(self.pushes)  # loops write past torch, and a look at staleness asks torch

    def draw(self, decay: float, step: Tensor) -> Tensor:
        """Draw ``decay ** age`` of each batch's kept rows, age 0 being the newest.

        A batch that had fewer rows than others, as the last one of an epoch, gives fewer in proportion: as many of each
        were kept. Every batch gives at least one row. Synchronizes with the host.

        Args:
            decay: in (0, 1].
            step: int64 tensor with one element, of which the choice of rows is a function.

        Returns:
            Rows, ``(M, C)``; M is 0 for an empty queue.
        """
        pushes = int(self.pushes)
        counts, totals = torch.stack([self.counts, self.totals]).tolist()
        # What a full batch would have kept: equal to the count where a batch is smaller than what is kept of each.
        largest = max(totals)
        full = min(largest, self.rows.shape[1])
        parts = []
        for age in range(min(pushes, self.size)):
            slot = (pushes - 1 - age) % self.size
            share = full * totals[slot] / max(largest, 1) * decay**age  # a process may have had no rows at all
            order = uniform(step, counts[slot], Stream.REFIT_ROWS + age).argsort()
            parts.append(self.rows[slot, order[: max(1, round(share))]])
        return torch.cat(parts) if parts else self.rows.new_zeros(0, self.rows.shape[2])


def keep_queues_apart(model: nn.Module) -> None:
    """Tell DDP to leave the queues in ``model`` alone; call it before you wrap the model.

    DDP gives all processes the buffers of the first one in every step, and a queue holds what its own process has seen.
    ``swap_norms`` calls this for the model that it is given, and the callbacks for the LightningModule. It is needed
    where DDP wraps another module, around that one.

    Examples:
        >>> from mn_lightning import MixtureNorm
        >>> model = nn.Sequential(MixtureNorm(4))
        >>> keep_queues_apart(model)  # and then DistributedDataParallel(model)
    """
    queues = [(name, module) for name, module in model.named_modules() if isinstance(module, BatchQueue)]
    buffers = [f"{name}.{buffer}" for name, queue in queues for buffer, _ in queue.named_buffers()]
    if buffers:
        ignored = dict.fromkeys([*getattr(model, "_ddp_params_and_buffers_to_ignore", ()), *buffers])
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            model, list(ignored)
        )
