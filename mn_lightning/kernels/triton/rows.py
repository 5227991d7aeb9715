"""How kernels go through the rows of an activation, without a copy of it.

What follows from shape, strides and number of components alone is worked out once: for small activations, the time of
the host is what a norm takes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mn_lightning.kernels.triton.launch import power_of_2, programs

TILE = 4096
"""Numbers of an activation that a program holds at once."""
MOST_AT_ONCE = 4, 128
"""Where features lie side by side, up to so many components and features are in registers at the same time,"""
TILE_AT_ONCE = 1024
"""with so many numbers of an activation. Where rows do, adding up over them at once is faster."""
MOST_FLAGS = 512
"""Programs that add up sums, at most."""

Shape = tuple[int, ...]


class RowsPlan:
    """How to go through rows ``(B, M, D)`` for K components.

    Attributes:
        sizes: B, M, D, K, the strides of B, M and D, and tiles of each block: what every kernel takes first.
        tile: KP, BM and BC: components, rows and features of a tile.
        grid: programs that share out the rows, and slices of the features, for sums.
        tiles: tiles of rows, and slices of the features.
        adders: programs that add up the sums of the others.
        add_features: how many features each of them takes.
        scratch: how many numbers the sums are.
    """

    def __init__(self, shape: Shape, strides: Shape, components: int, device: torch.device) -> None:
        blocks, length, features = shape
        columns = min(power_of_2(features), 256)
        rows = min(max(16, TILE // columns), 128, max(16, power_of_2(length)))
        tiles = -(-length // rows)
        slices = -(-features // columns)
        padded = max(2, power_of_2(components))
        self.rows, self.features, self.components = blocks * length, features, components
        self.length, self.strides = length, strides
        self.sizes = (*shape, components, *strides, tiles)
        self.tile = padded, rows, columns
        self.tiles = blocks * tiles, slices
        self.grid = programs(device, blocks * tiles), slices
        self.add_features = max(32, power_of_2(features) * components // MOST_FLAGS)
        self.at_once = strides[2] == 1 and padded <= MOST_AT_ONCE[0] and columns <= MOST_AT_ONCE[1]
        few = min(max(16, TILE_AT_ONCE // columns), 64, max(16, power_of_2(length)))
        few_tiles = -(-length // few)
        self.sizes_at_once = (*self.sizes[:-1], few_tiles)
        self.tile_at_once = padded, few, columns
        self.grid_at_once = programs(device, blocks * few_tiles), 1
        if self.at_once:
            self.grid = self.grid_at_once[0], slices
        self.adders = -(-features // self.add_features), components
        self.flags = self.adders[0] * components
        self.scratch = self.grid[0] * (2 * components * features + padded)


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
