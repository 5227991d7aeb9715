"""Choosing rows at random, and k-means++ among them, as Triton kernels.

The random numbers are those of the package's counter-based generator: the same function of the same step.
"""

import triton
import triton.language as tl

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
def gather(
    x, step, out,
    count, total, L, C, sb, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HOW: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Copy ``count`` of ``total`` rows to ``out (count, C)``; the random choice is a function of ``step``.

    Grid: one program for every BM rows and every BC features.
    """
    number = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    row = _chosen(tl.load(step), number, count, total, HOW, STREAM)
    inside = (number < count)[:, None] & (c < C)[None, :]
    at = (row // L) * sb + (row % L) * sl
    values = tl.load(x + at[:, None] + c[None, :].to(tl.int64) * sc, mask=inside, other=0.0)
    tl.store(out + number[:, None] * C + c[None, :], values.to(tl.float32), mask=inside)


@triton.jit
def all_finite(means, variances, finite, size, B: tl.constexpr):
    """Whether all numbers of two tensors are. Grid: one program."""
    wrong = tl.zeros((B,), tl.int32)
    for start in range(0, size, B):
        i = start + tl.arange(0, B)
        mean = tl.load(means + i, mask=i < size, other=0.0)
        var = tl.load(variances + i, mask=i < size, other=0.0)
        # The difference from itself is 0 for finite numbers alone.
        wrong += ((mean - mean != 0.0) | (var - var != 0.0)).to(tl.int32)
    tl.store(finite, tl.sum(wrong) == 0)


@triton.jit
def push(
    x, step, finite, pushes, rows, counts,
    count, capacity, size, total, L, C, sb, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HOW: tl.constexpr, STREAM: tl.constexpr,
):  # fmt: skip
    """Copy ``count`` rows into slot ``pushes % size`` of a queue ``rows (size, capacity, C)``, if ``finite``.

    Grid: one program for every BM rows and every BC features.
    """
    good = tl.load(finite) != 0
    slot = tl.load(pushes) % size
    number = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    row = _chosen(tl.load(step), number, count, total, HOW, STREAM)
    inside = (number < count)[:, None] & (c < C)[None, :] & good
    at = (row // L) * sb + (row % L) * sl
    values = tl.load(x + at[:, None] + c[None, :].to(tl.int64) * sc, mask=inside, other=0.0)
    to = rows + slot * capacity * C + number[:, None] * C + c[None, :]
    tl.store(to, values.to(rows.dtype.element_ty), mask=inside)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        if good:
            tl.store(counts + slot, count)


@triton.jit
def _to_candidates(seeds, picks, closest, R, C, T, RP: tl.constexpr, TP: tl.constexpr, BC: tl.constexpr):
    """Squared distance of every seed to the nearest of the centres so far and each candidate, ``(RP, TP)``."""
    r = tl.arange(0, RP)
    tidx = tl.arange(0, TP)
    distances = tl.zeros((RP, TP), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        tile = tl.load(seeds + r[:, None] * C + c[None, :], mask=(r < R)[:, None] & (c < C)[None, :], other=0.0)
        for t in range(0, T):
            pick = tl.sum(tl.where(tidx == t, picks, 0))
            d = tile - tl.load(seeds + pick * C + c, mask=c < C, other=0.0)[None, :]
            distances = tl.where((tidx == t)[None, :], distances + tl.sum(d * d, axis=1)[:, None], distances)
    distances = tl.minimum(distances, closest[:, None])
    return tl.where((r < R)[:, None], distances, 0.0)


@triton.jit
def seed(
    seeds, step, draws, means,
    R, C, K, T,
    RP: tl.constexpr, TP: tl.constexpr, BC: tl.constexpr, DRAWS: tl.constexpr,
):  # fmt: skip
    """Greedy k-means++ among ``seeds (R, C)``: ``means (K, C)``.

    Each centre after the first is the best, by the sum of squared distances that it leaves, of T candidates drawn with
    probability proportional to the squared distance to the nearest centre so far. Random numbers are a function of
    ``step``, or DRAWS: given, for tests.

    Grid: one program.
    """
    tidx = tl.arange(0, TP)
    now = tl.load(step)
    u = _uniform(now, tidx, 0)
    if DRAWS:
        u = tl.load(draws + tidx)
    first = tl.sum(tl.where(tidx == 0, u, 0.0))
    best = tl.minimum((first * R).to(tl.int32), R - 1)
    far = tl.zeros((RP,), tl.float32) + float("inf")
    closest = tl.sum(
        tl.where((tidx == 0)[None, :], _to_candidates(seeds, tidx * 0 + best, far, R, C, 1, RP, TP, BC), 0.0), axis=1
    )
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        tl.store(means + c, tl.load(seeds + best * C + c, mask=c < C, other=0.0), mask=c < C)
    for k in range(1, K):
        number = 1 + (k - 1) * T + tidx
        if DRAWS:
            u = tl.load(draws + number, mask=tidx < T, other=0.0)
        else:
            u = _uniform(now, number, 0)
        cumulative = tl.cumsum(closest, axis=0)
        target = tl.sum(closest) * u
        picks = tl.sum((cumulative[:, None] < target[None, :]).to(tl.int32), axis=0)
        picks = tl.minimum(picks, R - 1)
        distances = _to_candidates(seeds, picks, closest, R, C, T, RP, TP, BC)
        left = tl.where(tidx < T, tl.sum(distances, axis=0), float("inf"))
        chosen = tl.argmin(left, axis=0)
        best = tl.sum(tl.where(tidx == chosen, picks, 0))
        closest = tl.sum(tl.where((tidx == chosen)[None, :], distances, 0.0), axis=1)
        for c0 in range(0, C, BC):
            c = c0 + tl.arange(0, BC)
            tl.store(means + k * C + c, tl.load(seeds + best * C + c, mask=c < C, other=0.0), mask=c < C)
