"""Reading an activation in pieces that stay in a CPU's cache while several operations are applied to them.

A fit, a normalization and their gradients are a few elementwise operations and thin matrix products in a row. Done on
the whole activation, each of them reads it from memory and writes a result as large. Done piece by piece, memory is
read once for all of them, and results that nobody keeps stay in a buffer that is used again for the next piece.

Everything here has shape ``(G, B, M, D)`` as in :mod:`mn_lightning.gmm`, or, with the features first, ``(G, B, D, M)``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

PIECE_BYTES = 2**21
"""A piece and two or three buffers of its size fit into a last-level cache, and are work enough for several threads."""

BLOCKS = 8
"""Where rows lie one after the other, a piece is cut into at least this many blocks, which threads share out."""

SMALLEST = 2**19
"""Activations of fewer bytes are normalized by the plain formula: a few large operations are then faster than many."""

Place = tuple[slice, slice]
"""Which blocks and which rows of them a piece is."""


def worth_cutting(x: Tensor) -> bool:
    """Whether ``x`` is so large that computing in pieces is faster than a few operations on all of it."""
    return x.nbytes >= SMALLEST


def in_blocks(x: Tensor) -> Tensor:
    """View rows that lie one after the other, ``(1, 1, M, D)``, as blocks of one length, ``(1, B, M / B, D)``.

    Anything else stays as it is.
    """
    if x.shape[1] != 1 or not x.is_contiguous():
        return x
    total, features = x.shape[2:]
    longest = max(1, PIECE_BYTES // (BLOCKS * max(1, features) * x.element_size()))
    length = next((n for n in range(min(total, longest), longest // 8, -1) if total % n == 0), total)
    return x.view(1, -1 if total else 1, length, features)


def places(x: Tensor) -> Iterator[Place]:
    """Cut ``(G, B, M, D)`` into pieces of about PIECE_BYTES."""
    groups, blocks, rows, features = x.shape
    if x.numel() == 0:
        yield slice(None), slice(None)
        return
    at_once = max(1, PIECE_BYTES // (groups * features * x.element_size()))
    if rows <= at_once:
        yield from whole_blocks(x)
        return
    for block in range(blocks):
        for start in range(0, rows, at_once):
            yield slice(block, block + 1), slice(start, start + at_once)


def whole_blocks(x: Tensor) -> Iterator[Place]:
    """Cut ``(G, B, M, D)`` into pieces of about PIECE_BYTES, but no block into two."""
    at_once = max(1, PIECE_BYTES // max(1, x[:, 0].numel() * x.element_size()))
    for start in range(0, x.shape[1], at_once):
        yield slice(start, start + at_once), slice(None)


def take(x: Tensor, place: Place) -> Tensor:
    """Piece of ``(G, B, M, D)`` with its features first, ``(G, b, D, m)``: a view."""
    return x[:, place[0], place[1]].mT


class Buffer:
    """Memory for what is computed from one piece, ``n`` times its size, laid out in memory as ``x`` is.

    Args:
        x: whose pieces they are, ``(G, B, M, D)``.
        n: how many values for each of ``x``.
    """

    def __init__(self, x: Tensor, n: int) -> None:
        self.n = n
        self.rows_are_dense = x.stride(-1) == 1 and x.shape[-1] > 1
        self.memory = x.new_empty(0)

    def like(self, piece: Tensor, n: int | None = None) -> tuple[Tensor, ...]:
        """``n`` tensors of the piece's shape ``(G, b, D, m)``, and these one after the other, ``(G, b, nD, m)``."""
        n = n or self.n
        groups, blocks, features, rows = piece.shape
        size = groups * blocks * self.n * features * rows
        if self.memory.numel() < size:
            self.memory = self.memory.new_empty(size)
        size = size // self.n * n
        if self.rows_are_dense:
            joined = self.memory[:size].view(groups, blocks, rows, n * features).mT
        else:
            joined = self.memory[:size].view(groups, blocks, n * features, rows)
        return (*joined.chunk(n, 2), joined)


def with_squares(x: Tensor, origin: Tensor | None = None) -> Iterator[tuple[Place, Tensor]]:
    """Read ``x`` piece by piece, each relative to ``origin`` and with its squares behind it.

    Args:
        x: ``(G, B, M, D)``.
        origin: ``(G, 1, D)``; 0 by default.

    Yields:
        Where the piece is, and ``(G, b, 2D, m)``, which is overwritten by the next.
    """
    buffer = Buffer(x, 2)
    for place in places(x):
        piece = take(x, place)
        values, squares, both = buffer.like(piece)
        if origin is None:
            values.copy_(piece)
        else:
            torch.sub(piece, origin.unsqueeze(1).mT, out=values)
        torch.mul(values, values, out=squares)
        yield place, both


def blend(shares: Tensor, values: Tensor, out: Tensor) -> None:
    """Σ_k shares_km values_kd, ``(1, b, K, m), (1, K, D) -> (1, b, D, m)``, written in the layout of ``out``."""
    shares, values = shares[0], values.expand(shares.shape[1], -1, -1)
    if out.stride(-1) == 1:
        torch.bmm(values.mT, shares, out=out[0])
    else:
        torch.bmm(shares.mT, values, out=out[0].mT)
