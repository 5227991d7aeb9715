"""The random numbers of :mod:`mn_lightning.utils.random`, bit for bit."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop

Array = Any

_MASK = 0xFFFFFFFF


@loop
def _mixed(bits: int) -> int:
    bits ^= bits >> 16
    bits = (bits * 0x85EBCA6B) & _MASK
    bits ^= bits >> 13
    bits = (bits * 0xC2B2AE35) & _MASK
    return bits ^ (bits >> 16)


@loop
def key_of(step: int, stream: int) -> int:
    """What all numbers of a step and a stream have in common."""
    return _mixed((step * 0x9E3779B9 + stream * 0x7F4A7C15) & _MASK)


@loop
def number(key: int, index: int) -> Any:
    """The number at ``index`` of those that ``uniform`` returns, float32 in [0, 1)."""
    return np.float32(_mixed(_mixed(index) ^ key) >> 8) * np.float32(2.0**-24)


@loop
def place(key: int, index: int, size: int, total: int) -> int:
    """The integer at ``index`` of the ``size`` that ``stratified`` returns."""
    start = index * total // size
    length = (index + 1) * total // size - start
    inside = min(int(number(key, index) * np.float32(length)), length - 1)
    return (start + inside + int(number(key, size) * np.float32(total))) % total
