"""The processes of a run, that measure together."""

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

_T = TypeVar("_T")


class Ranks:
    """What the ranks of a Trainer do together; every rank has to call each method that exchanges something.

    Args:
        trainer: with its strategy set up.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy = trainer.strategy
        self.rank: int = trainer.global_rank
        self.size: int = trainer.world_size

    def share(self, total: int) -> range:
        """Return this rank's run of ``range(total)``; the runs differ in length by one at most, rank 0's is longest."""
        start, stop = (-(-total * rank // self.size) for rank in (self.rank, self.rank + 1))
        return range(start, stop)

    def longest_share(self, total: int) -> int:
        """Return the length of rank 0's run."""
        return -(-total // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up tensors of one shape over all ranks."""
        total: Tensor = self._strategy.reduce(tensor.to(self._strategy.root_device), reduce_op="sum")
        return total

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Join tensors ``(N_rank, *)``, of which some may be empty, in the order of the ranks."""
        if self.size == 1:
            return tensor
        return torch.cat(gather_all_tensors(tensor.to(self._strategy.root_device)))

    def together(self, action: Callable[[], _T]) -> _T:
        """Run an action that exchanges nothing; if it fails on any rank, all raise, and none waits for it later.

        Raises:
            Exception: this rank's error.
            RuntimeError: if only others have failed.
        """
        error: Exception | None = None
        try:
            result = action()
        except Exception as caught:
            error = caught
        if self._strategy.reduce_boolean_decision(error is None, all=True):
            return result
        raise error or RuntimeError("another process failed; its error says why")

    def on_rank_zero(self, action: Callable[[], _T]) -> _T:
        """Run an action on rank zero and give all ranks its result, which has to be picklable and small.

        Raises:
            Exception: rank zero's error, there.
            RuntimeError: if rank zero failed, on the other ranks.
        """
        result: _T = self._strategy.broadcast(self.together(lambda: action() if self.rank == 0 else None))  # type: ignore[assignment]
        return result

    def copy_buffers(self, module: nn.Module) -> None:
        """Overwrite the saved buffers of all ranks by those of rank zero, whose model the checkpoint holds."""
        if self.size == 1:
            return
        for child in module.modules():
            for name, buffer in child._buffers.items():
                if buffer is not None and name not in child._non_persistent_buffers_set:
                    torch.distributed.broadcast(buffer, 0)
