"""Choosing rows at random, and k-means++ among them, as Triton kernels.

The random numbers are those of the package's counter-based generator: the same function of the same step.
"""

import triton
import triton.language as tl

from mn_lightning.kernels.triton.steps import begins, ends

ALL = tl.constexpr(0)
"""Which rows: all, one after the other;"""
DRAWN = tl.constexpr(1)
"""drawn with replacement;"""
STRATIFIED = tl.constexpr(2)
"""or one from each of as many strides."""


@triton.jit
def _mix(bits):
    """Finalizer of MurmurHash3 on 32-bit integers held in int64."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x85EBCA6B) & 0xFFFFFFFF
    bits = bits ^ (bits >> 13)
    bits = (bits * 0xC2B2AE35) & 0xFFFFFFFF
    return bits ^ (bits >> 16)


@triton.jit
def _bits(step, index, stream: tl.constexpr):
    """24 random bits for each index."""
    key = _mix((step * 0x9E3779B9 + stream * 0x7F4A7C15) & 0xFFFFFFFF)
    return _mix(_mix(index.to(tl.int64)) ^ key) >> 8


@triton.jit
def _uniform(step, index, stream: tl.constexpr):
    return _bits(step, index, stream).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _chosen(step, index, count, total, HOW: tl.constexpr, stream: tl.constexpr):
    """Which of ``total`` rows are number ``index`` of the ``count`` chosen."""
    index = index.to(tl.int64)
    if HOW == 1:
        index = (_bits(step, index, stream) * total) >> 24
    if HOW == 2:
        total64 = tl.zeros_like(index) + total
        start = index * total64 // count
        length = (index + 1) * total64 // count - start
        inside = (_uniform(step, index, stream) * length.to(tl.float32)).to(tl.int64)
        inside = tl.minimum(inside, length - 1)
        shift = (_uniform(step, tl.zeros_like(index) + count, stream) * total64.to(tl.float32)).to(tl.int64)
        index = (start + inside + shift) % total64
    return index


@triton.jit
def gather_rows(
    x, step, out,
    count, total, L, C, sb, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HOW: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Copy ``count`` of ``total`` rows to ``out (count, C)``; the random choice is a function of ``step``."""
    slices = tl.cdiv(C, BC)
    for t in range(tl.program_id(0), tl.cdiv(count, BM) * slices, tl.num_programs(0)):
        number = (t // slices) * BM + tl.arange(0, BM)
        c = (t % slices) * BC + tl.arange(0, BC)
        row = _chosen(tl.load(step), number, count, total, HOW, STREAM)
        inside = (number < count)[:, None] & (c < C)[None, :]
        at = (row // L) * sb + (row % L) * sl
        values = tl.load(x + at[:, None] + c[None, :].to(tl.int64) * sc, mask=inside, other=0.0)
        tl.store(out + number[:, None] * C + c[None, :], values.to(tl.float32), mask=inside)


@triton.jit
def gather(
    x, step, out,
    count, total, L, C, sb, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HOW: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """:func:`gather_rows` as a kernel."""
    gather_rows(x, step, out, count, total, L, C, sb, sl, sc, BM, BC, HOW, STREAM)


@triton.jit
def push(
    x, step, finite, pushes, rows, counts, totals, arrived,
    first, last, count, capacity, size, total, L, C, sb, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HOW: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Copy ``count`` rows into slot ``pushes % size`` of a queue ``rows (size, capacity, C)``, if ``finite``.

    Steps: the rows; and what is known of the slot, which every program has read then.
    """
    good = tl.load(finite) != 0
    before = tl.load(pushes)
    slot = before % size
    if begins(0, first, last, arrived):
        if good:
            slices = tl.cdiv(C, BC)
            for t in range(tl.program_id(0), tl.cdiv(count, BM) * slices, tl.num_programs(0)):
                number = (t // slices) * BM + tl.arange(0, BM)
                c = (t % slices) * BC + tl.arange(0, BC)
                row = _chosen(tl.load(step), number, count, total, HOW, STREAM)
                inside = (number < count)[:, None] & (c < C)[None, :]
                at = (row // L) * sb + (row % L) * sl
                values = tl.load(x + at[:, None] + c[None, :].to(tl.int64) * sc, mask=inside, other=0.0)
                to = rows + slot * capacity * C + number[:, None] * C + c[None, :]
                tl.store(to, values.to(rows.dtype.element_ty), mask=inside)
    if begins(1, first, last, arrived):
        if good & (tl.program_id(0) == 0):
            tl.store(counts + slot, count)
            tl.store(totals + slot, total)
            tl.store(pushes, before + 1)
    ends(first, last, arrived)


@triton.jit
def _chosen_candidate(distances, picks, k, count, T, RP: tl.constexpr, TP: tl.constexpr):
    """Of centre k's candidates, number and row of the one that leaves the least; distances to the nearest centre."""
    r = tl.arange(0, RP)
    tidx = tl.arange(0, TP)
    buffer = k % 2
    at = distances + buffer * count * TP + r[:, None] * TP + tidx[None, :]
    every = tl.load(at, mask=(r < count)[:, None], other=0.0)
    n = tl.where(k == 0, 1, T)  # the first centre is a single one, drawn from all rows
    chosen = tl.argmin(tl.where(tidx < n, tl.sum(every, axis=0), float("inf")), axis=0)
    closest = tl.sum(tl.where((tidx == chosen)[None, :], every, 0.0), axis=1)
    return chosen, tl.load(picks + buffer * TP + chosen).to(tl.int32), closest


@triton.jit
def _write_mean(seeds, means, row, k, C, BC: tl.constexpr):
    if tl.program_id(0) == 0:
        for c0 in range(0, C, BC):
            c = c0 + tl.arange(0, BC)
            tl.store(means + k * C + c, tl.load(seeds + row * C + c, mask=c < C, other=0.0), mask=c < C)


@triton.jit
def candidates(
    seeds, step, means, distances, picks, k, count, C, T,
    BM: tl.constexpr, BC: tl.constexpr, RP: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """Draw T candidates for centre k; distances of all rows to each or the nearest centre so far.

    All programs draw the same; each takes some of the rows. What they write alternates between two places, as they
    read what was written for the centre before, which comes into ``means`` here.
    """
    tidx = tl.arange(0, TP)
    now = tl.load(step)
    if k == 0:
        first = tl.sum(tl.where(tidx == 0, _uniform(now, tidx, 0), 0.0))
        drawn = tl.minimum((first * count).to(tl.int32), count - 1) + tidx * 0
        column = 0
    else:
        column, row, closest = _chosen_candidate(distances, picks, k - 1, count, T, RP, TP)
        _write_mean(seeds, means, row, k - 1, C, BC)
        number = 1 + (k - 1) * T + tidx
        cumulative = tl.cumsum(closest, axis=0)
        target = tl.sum(closest) * _uniform(now, number, 0)
        drawn = tl.minimum(tl.sum((cumulative[:, None] < target[None, :]).to(tl.int32), axis=0), count - 1)
    if tl.program_id(0) == 0:
        tl.store(picks + (k % 2) * TP + tidx, drawn.to(tl.float32))
    before = distances + ((k + 1) % 2) * count * TP
    after = distances + (k % 2) * count * TP
    for tile in range(tl.program_id(0), tl.cdiv(count, BM), tl.num_programs(0)):
        r = tile * BM + tl.arange(0, BM)
        found = tl.zeros((BM, TP), tl.float32)
        for c0 in range(0, C, BC):
            c = c0 + tl.arange(0, BC)
            some = tl.load(seeds + r[:, None] * C + c[None, :], mask=(r < count)[:, None] & (c < C)[None, :], other=0.0)
            for t in range(0, T):
                pick = tl.sum(tl.where(tidx == t, drawn, 0))
                d = some - tl.load(seeds + pick * C + c, mask=c < C, other=0.0)[None, :]
                found = tl.where((tidx == t)[None, :], found + tl.sum(d * d, axis=1)[:, None], found)
        if k > 0:
            nearest = tl.load(before + r * TP + column, mask=r < count, other=0.0)
            found = tl.minimum(found, nearest[:, None])
        tl.store(after + r[:, None] * TP + tidx[None, :], found, mask=(r < count)[:, None])


@triton.jit
def chosen_centre(
    seeds, means, distances, picks, k, count, C, T, BC: tl.constexpr, RP: tl.constexpr, TP: tl.constexpr
):  # fmt: skip
    """Write the mean of the last centre, number ``k - 1``."""
    _, row, _ = _chosen_candidate(distances, picks, k - 1, count, T, RP, TP)
    _write_mean(seeds, means, row, k - 1, C, BC)
