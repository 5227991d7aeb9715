"""Counter-based random numbers: a pure function of a step count, so that a run can be repeated.

The mixture fit needs a few random numbers in every training step. Drawing them from torch's global generator
would change the order of the batches and the dropout masks of the network around it, so that a swapped network
could not be compared with its baseline, and a resumed run would take other ones than an uninterrupted run.
Hashing the step count that the layer saves anyway has neither effect, gives the same numbers on every device
and needs no host synchronization.
"""

from enum import IntEnum

import torch
from torch import Tensor


class Stream(IntEnum):
    """What random numbers are for: those of one step differ between streams."""

    KMEANS = 0
    SEED_ROWS = 1
    QUEUE_ROWS = 2
    REFIT_ROWS = 3  # of the newest batch; REFIT_ROWS + age is that of an older one
    FIT_ROWS = 2**20  # beyond the ages of all batches


_MASK = 0xFFFFFFFF


def _mix(bits: Tensor) -> Tensor:
    """Finalizer of MurmurHash3 (Appleby, public domain) on 32-bit integers held in int64."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x85EBCA6B) & _MASK
    bits = bits ^ (bits >> 13)
    bits = (bits * 0xC2B2AE35) & _MASK
    return bits ^ (bits >> 16)


def uniform(step: Tensor, size: int, stream: int) -> Tensor:
    """Return ``size`` float32 numbers in [0, 1), a function of ``step`` and ``stream`` alone.

    Args:
        step: int64 tensor with one element; the numbers are made on its device.
        size: how many numbers to return.
        stream: a :class:`Stream`.
    """
    # 24 bits fill a float32's mantissa exactly, so that 1.0 cannot come out of rounding.
    return _bits(step, size, stream).to(torch.float32) * 2.0**-24


def integers(step: Tensor, size: int, high: int | Tensor, stream: int) -> Tensor:
    """Return ``size`` int64 numbers in 0..high - 1, a function of ``step``, ``high`` and ``stream`` alone.

    Args:
        step: as in :func:`uniform`.
        size: how many numbers to return.
        high: at most 2**39; beyond 2**24, not all numbers can come out.
        stream: as in :func:`uniform`.
    """
    return (_bits(step, size, stream) * high) >> 24


def stratified(step: Tensor, size: int, total: int, stream: int) -> Tensor:
    """Return ``size`` different integers in 0..total - 1, one at random from each of ``size`` strides of that range.

    Args:
        step: as in :func:`uniform`.
        size: how many, at most ``total``.
        total: length of the range; the strides' lengths differ by one at most.
        stream: as in :func:`uniform`.
    """
    u = uniform(step, size + 1, stream)
    bounds = torch.arange(size + 1, device=step.device) * total // size
    start, length = bounds[:-1], bounds.diff()
    inside = torch.minimum((u[:size] * length).long(), length - 1)
    # Strides differ by one row: the shift along the ring makes all rows equally likely.
    return (start + inside + (u[size] * total).long()) % total


def _bits(step: Tensor, size: int, stream: int) -> Tensor:
    """Return ``size`` integers of 24 random bits."""
    index = torch.arange(size, device=step.device)
    key = _mix((step.reshape(()) * 0x9E3779B9 + stream * 0x7F4A7C15) & _MASK)
    return _mix(_mix(index) ^ key) >> 8
