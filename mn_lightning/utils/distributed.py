"""Sums over the processes that hold the rows of a batch between them."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """The processes that share a batch; by default this one, alone.

    What is exchanged are sums of numbers that every process adds up over its own rows: their size does not depend on
    how many rows there are, and a process without rows takes part with zeros.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Sum each of ``tensors``, all of one dtype, over the processes; in one message, with gradients."""
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
