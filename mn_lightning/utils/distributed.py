"""What the processes of a run do together, by plain torch.distributed."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_T = TypeVar("_T")


class Processes:
    """The processes that share a batch or another piece of work; by default this one, alone.

    Every process has to call each method that exchanges something. Tensors are sent from the device that they are on,
    which has to be one that the backend of torch.distributed can send from: a GPU for NCCL.

    Args:
        rank: of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def share(self, total: int) -> range:
        """Return this process' part of ``range(total)``; parts differ in length by one at most, rank 0's is longest."""
        start, stop = (-(-total * rank // self.size) for rank in (self.rank, self.rank + 1))
        return range(start, stop)

    def longest_share(self, total: int) -> int:
        """Return the length of rank 0's part of ``range(total)``."""
        return -(-total // self.size)

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Sum each of ``tensors``, all of one dtype, over the processes; in one message, with gradients.

        The message does not grow with the number of rows that were summed up, and a process without rows sends zeros.
        """
        if self.size == 1:
            return tensors
        total = _AllReduce.apply(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        parts = total.split([tensor.numel() for tensor in tensors])
        return tuple(part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))

    def max(self, tensor: Tensor) -> Tensor:
        """Elementwise maximum over the processes, without gradients."""
        if self.size == 1:
            return tensor
        largest = tensor.detach().clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest

    def mine(self, value: Tensor) -> Tensor:
        """Vector with the 0-d ``value`` at this process' place, to be summed into everyone's values ``(size,)``."""
        return value * (torch.arange(self.size, device=value.device) == self.rank)

    def gather(self, value: _T) -> list[_T]:
        """Return the values of all processes, small and picklable ones, in the order of the ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Join tensors ``(N_rank, *)`` in the order of the ranks, without gradients; some of them may be empty."""
        if self.size == 1:
            return tensor
        lengths = self.gather(len(tensor))
        # Messages have one size for all: each process pads its rows to the longest part.
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def together(self, action: Callable[[], _T]) -> _T:
        """Run an action that exchanges nothing; if it fails in one process, all raise, and none waits for it later.

        Raises:
            Exception: this process' error.
            RuntimeError: if only others have failed.
        """
        error: Exception | None = None
        try:
            result = action()
        except Exception as caught:
            error = caught
        if all(self.gather(error is None)):
            return result
        raise error or RuntimeError("another process failed; its error says why")

    def on_rank_zero(self, action: Callable[[], _T]) -> _T:
        """Run an action in process 0 and give its result, which has to be small and picklable, to all.

        Raises:
            Exception: in process 0, its error.
            RuntimeError: in the others, if process 0 failed.
        """
        results: list[Any] = [self.together(lambda: action() if self.rank == 0 else None)]
        if self.size > 1:
            dist.broadcast_object_list(results)
        result: _T = results[0]
        return result

    def copy_buffers(self, module: nn.Module) -> None:
        """Overwrite the saved buffers of ``module`` in all processes by those of process 0, which checkpoints hold."""
        if self.size == 1:
            return
        for child in module.modules():
            for name, buffer in child._buffers.items():
                if buffer is not None and name not in child._non_persistent_buffers_set:
                    dist.broadcast(buffer, 0)


ALONE = Processes()


def all_processes() -> Processes:
    """All processes of torch's default group; this one alone where there is no group."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Processes(dist.get_rank(), dist.get_world_size())
    return ALONE


class _AllReduce(torch.autograd.Function):
    """A sum over the processes; so is its gradient, as every process' loss depends on the sum."""

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total: Tensor = _AllReduce.apply(grads[0].contiguous())
        return total
