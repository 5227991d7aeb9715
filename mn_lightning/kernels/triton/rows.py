"""How a kernel finds the rows of an activation, without a copy of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning.kernels.triton.launch import power_of_2

TILE = 4096
"""Numbers of an activation that a program holds at once."""


class Rows(NamedTuple):
    """Rows of ``(N, C, *)``: number m of block b starts at ``b * block + m * row``, its features are ``feature`` apart.

    Attributes:
        blocks: number of blocks B: samples, or 1 where all rows lie one after the other.
        length: rows of a block, L.
        features: C.
        block: stride, in elements.
        row: stride.
        feature: stride.
    """

    blocks: int
    length: int
    features: int
    block: int
    row: int
    feature: int

    @property
    def tile(self) -> tuple[int, int]:
        """How many rows and features a program takes at once."""
        features = min(power_of_2(self.features), 256)
        rows = min(max(16, TILE // features), 128)
        return min(rows, max(16, power_of_2(self.length))), features

    @property
    def strides(self) -> tuple[int, int, int]:
        return self.block, self.row, self.feature


def dense(x: Tensor) -> tuple[Tensor, Rows]:
    """Return ``x`` ``(N, C, *)``, copied only if neither its samples nor its rows lie in one piece, and its rows."""
    samples, features = x.shape[:2]
    length = x.shape[2:].numel()
    if length > 1 and x.is_contiguous():
        return x, Rows(samples, length, features, features * length, 1, length)
    if _rows_in_one_piece(x):
        return x, Rows(1, samples * length, features, 0, features, 1)
    return dense(x.contiguous())


def like(x: Tensor, other: Tensor) -> tuple[Tensor, Rows]:
    """:func:`dense` of ``x``, copied also if it isn't laid out in memory as ``other``, which is dense."""
    if x.stride() != other.stride():
        x = torch.empty_like(other, dtype=x.dtype).copy_(x)
    return dense(x)


def _rows_in_one_piece(x: Tensor) -> bool:
    expected = 1
    for size, stride in zip((x.shape[1], *x.shape[:1:-1], x.shape[0]), _from_the_last(x), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _from_the_last(x: Tensor) -> tuple[int, ...]:
    strides = x.stride()
    return (strides[1], *strides[:1:-1], strides[0])
