"""How kernels go through the rows of an activation, without a copy of it.

What follows from shape, strides and number of components alone is worked out once: for small activations, the time of
the host is what a norm takes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mn_lightning.kernels.triton.launch import most_programs, power_of_2

TILE = 2048
"""Numbers of an activation that a program holds at once."""
MOST_COLUMNS = 256
"""Features up to which a program takes whole rows."""
MOST_AT_ONCE = 4, 128
"""Where features lie side by side, gradients of up to so many components and features are added up in registers,"""
TILE_AT_ONCE = 512
"""with so many numbers of an activation at once. Otherwise, adding up each tile is faster."""
MOST_SUMS = 2**21
"""Numbers that the parts of the rows' sums are, at most: they are read again to be added up."""

Shape = tuple[int, ...]


class RowsPlan:
    """How to go through rows ``(B, M, D)`` for K components.

    Attributes:
        programs: how many there are.
        sizes: B, M, D, K, the strides of B, M and D, and tiles of each block: what every kernel takes first.
        tile: KP, BM and BC: components, rows and features of a tile.
        at_once: whether gradients are added up with all components and features in registers at the same time.
        few: rows of a tile then.
        few_tiles: tiles of each block then.
        split: whether a row has more features than a tile.
        parts: into how many parts the rows are cut for sums.
        scratch: how many numbers the sums are.
        posteriors: how many numbers the posteriors are that a fit has to write.
    """

    def __init__(self, shape: Shape, strides: Shape, components: int, device: torch.device) -> None:
        blocks, length, features = shape
        columns = power_of_2(features) if features <= MOST_COLUMNS else TILE // 16
        rows = min(max(8, TILE // columns), 128, max(16, power_of_2(length)))
        tiles = -(-length // rows)
        slices = -(-features // columns)
        padded = max(2, power_of_2(components))
        self.rows, self.features, self.components = blocks * length, features, components
        self.length, self.strides = length, strides
        self.sizes = (*shape, components, *strides, tiles)
        self.tile = padded, rows, columns
        self.split = slices > 1
        few = padded <= MOST_AT_ONCE[0] and columns <= MOST_AT_ONCE[1] and not self.split
        self.at_once = strides[2] == 1 and few
        self.few = min(max(16, TILE_AT_ONCE // columns), 64, max(16, power_of_2(length))) if self.at_once else rows
        self.few_tiles = -(-length // self.few)
        self.programs = max(1, min(blocks * max(tiles * slices, self.few_tiles), most_programs(device)))
        of_part = 2 * components * features + padded
        self.parts = max(1, min(blocks * self.few_tiles, self.programs // slices, MOST_SUMS // of_part))
        self.scratch = self.parts * of_part
        self.posteriors = self.rows * components if self.split else 0


@lru_cache(maxsize=4096)
def plan_for_rows(shape: Shape, strides: Shape, components: int, device: torch.device) -> RowsPlan:
    """Plan for rows ``(B, M, D)``."""
    return RowsPlan(shape, strides, components, device)


@lru_cache(maxsize=4096)
def _plan(shape: Shape, strides: Shape, components: int, device: torch.device) -> RowsPlan | None:
    """Plan for ``(N, C, *)``; None if neither its samples nor its rows lie in one piece."""
    samples, features = shape[:2]
    length = torch.Size(shape[2:]).numel()
    if length > 1 and _in_one_piece(shape, strides):
        return RowsPlan((samples, length, features), (features * length, 1, length), components, device)
    if _in_one_piece(_channels_last(shape), _channels_last(strides)):
        return RowsPlan((1, samples * length, features), (0, features, 1), components, device)
    return None


def planned(x: Tensor, components: int) -> tuple[Tensor, RowsPlan]:
    """Return ``x`` ``(N, C, *)``, copied only if neither its samples nor its rows lie in one piece, and its plan."""
    plan = _plan(x.shape, x.stride(), components, x.device)
    if plan is None:
        return planned(x.contiguous(), components)
    return x, plan


def dense(x: Tensor) -> Tensor:
    """``x`` as :func:`planned` returns it."""
    return planned(x, 1)[0]


def dense_like(x: Tensor) -> Tensor:
    """An empty tensor like :func:`dense` of ``x``, also of one without values and with unknown sizes."""
    shape, strides = tuple(x.shape), x.stride()
    if _in_one_piece(shape, strides) or _in_one_piece(_channels_last(shape), _channels_last(strides)):
        return torch.empty_like(x)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def like(x: Tensor, other: Tensor) -> Tensor:
    """``x``, copied if it isn't laid out in memory as ``other``."""
    return x if x.stride() == other.stride() else torch.empty_like(other, dtype=x.dtype).copy_(x)


def _channels_last(values: Shape) -> Shape:
    return values[0], *values[2:], values[1]


def _in_one_piece(shape: Shape, strides: Shape) -> bool:
    expected = 1
    for size, stride in zip(shape[::-1], strides[::-1], strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
