"""The passes over rows of which a mixture's fit and the normalization under it are made, as parts of Triton kernels.

Rows are read in tiles of BM rows and BC features. All rows of a tile are in one block, so that their addresses follow
one another. K, at most KP (a power of 2), is looped over; a tensor ``(BM, KP)`` or ``(KP, BC)`` holds what belongs to
each component.

Sums over rows are first made by R parts of the programs, each for its own tiles, then added up in the order of the
parts: the same result every time, which atomic additions would not give. They are taken around a component's mean, so
that no digits are lost where rows are far from 0.
"""

import triton
import triton.language as tl

from mn_lightning.kernels.triton.pool_passes import column, vector

# Below this a logarithm of a density is not distinguished: one -inf for all components would make a NaN.
_LOWEST = tl.constexpr(-8.5e37)


@triton.jit
def place(t, tiles, L, BM: tl.constexpr):
    """Block of tile ``t``, its rows in the block, and which of them there are."""
    row = (t % tiles) * BM + tl.arange(0, BM)
    return (t // tiles).to(tl.int64), row, row < L


@triton.jit
def posteriors_at(nu, block, row, B, L):
    """Where the posteriors of a tile's rows are, for component 0, and how far it is to the next component's."""
    apart = (block * 0 + B) * L  # int64
    return nu + block * L + row, apart


@triton.jit
def load(x, block, row, c, inside, sb, sl, sc):
    """A tile of ``x`` in float32, 0 where there is nothing."""
    return tl.load(x + block * sb + row[:, None] * sl + c[None, :] * sc, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def affinity(
    x, weights, means, variances, used, block, row, there, C, K, sb, sl, sc, eps, nearest,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """How much each component has of each row of a tile, ``(BM, KP)``.

    ``nearest``: 1 for the nearest mean, the first of several; otherwise the posteriors of Eq. 31 over the components
    for which ``used`` is positive, as the weights of those in use are.
    """
    kidx = tl.arange(0, KP)
    total = tl.zeros((BM, KP), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        tile = load(x, block, row, c, there[:, None] & (c < C)[None, :], sb, sl, sc)
        for k in range(0, K):
            d = tile - vector(means + k * C, c, C)[None, :]
            var = tl.load(variances + k * C + c, mask=(c < C) & (nearest == 0), other=1.0)
            var = tl.where(nearest == 0, var + eps, 1.0)
            precision = tl.where(c < C, 1.0 / var, 0.0)
            s = tl.sum(d * d * precision[None, :], axis=1) + tl.sum(tl.where(c < C, tl.log(var), 0.0))
            total = tl.where((kidx == k)[None, :], total + s[:, None], total)
    weight = tl.load(weights + kidx, mask=(kidx < K) & (nearest == 0), other=0.0)
    score = tl.log(tl.where(weight > 0, weight, 1.0))[None, :] - 0.5 * total
    score = tl.where(score < _LOWEST, _LOWEST, score)  # a NaN stays one
    here = tl.load(used + kidx, mask=kidx < K, other=0.0) > 0
    score = tl.where(here[None, :], score, -float("inf"))
    e = tl.exp(score - tl.max(score, axis=1)[:, None])
    # Of numbers, also of NaNs.
    first = tl.argmin(tl.where((kidx < K)[None, :], total, float("inf")), axis=1)
    nu = tl.where(nearest == 0, e / tl.sum(e, axis=1)[:, None], (first[:, None] == kidx[None, :]).to(tl.float32))
    return tl.where(there[:, None], nu, 0.0)


@triton.jit
def posteriors(
    x, weights, means, variances, used, nu,
    B, L, C, K, sb, sl, sc, tiles, eps, nearest,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write :func:`affinity` of all rows to ``nu (K, B L)``."""
    kidx = tl.arange(0, KP)
    for t in range(tl.program_id(0), B * tiles, tl.num_programs(0)):
        block, row, there = place(t, tiles, L, BM)
        share = affinity(
            x, weights, means, variances, used, block, row, there, C, K, sb, sl, sc, eps, nearest, KP, BM, BC
        )
        at, apart = posteriors_at(nu, block, row, B, L)
        tl.store(at[:, None] + kidx[None, :] * apart, share, mask=there[:, None] & (kidx < K)[None, :])


@triton.jit
def sums(
    x, weights, means, variances, shift, used, nu, scratch,
    B, L, C, K, sb, sl, sc, tiles, R, eps, nearest, store,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Σ ν (x - shift), Σ ν (x - shift)² and Σ ν of each part's rows; ν is GIVEN, or found, and written to `store` it.

    ``scratch`` holds them one after the other, ``(R, K, C)`` twice and ``(R, KP)``. Where there are more than BC
    features ν has to be GIVEN: each slice of them is another program's.
    """
    kidx = tl.arange(0, KP)
    for unit in range(tl.program_id(0), R * tl.cdiv(C, BC), tl.num_programs(0)):
        part = unit % R
        c = (unit // R) * BC + tl.arange(0, BC)
        n = tl.zeros((KP,), tl.float32)
        one = tl.zeros((KP, BC), tl.float32)
        two = tl.zeros((KP, BC), tl.float32)
        for t in range(part, B * tiles, R):
            block, row, there = place(t, tiles, L, BM)
            at, apart = posteriors_at(nu, block, row, B, L)
            inside = there[:, None] & (kidx < K)[None, :]
            if GIVEN:
                share = tl.load(at[:, None] + kidx[None, :] * apart, mask=inside, other=0.0)
            else:
                share = affinity(
                    x, weights, means, variances, used, block, row, there, C, K, sb, sl, sc, eps, nearest,
                    KP, BM, BC,
                )  # fmt: skip
                tl.store(at[:, None] + kidx[None, :] * apart, share, mask=inside & store)
            n += tl.sum(share, axis=0)
            tile = load(x, block, row, c, there[:, None] & (c < C)[None, :], sb, sl, sc)
            for k in range(0, K):
                d = tile - vector(shift + k * C, c, C)[None, :]
                weighted = column(share, k, KP)[:, None] * d
                this = (kidx == k)[:, None]
                one = tl.where(this, one + tl.sum(weighted, axis=0)[None, :], one)
                two = tl.where(this, two + tl.sum(weighted * d, axis=0)[None, :], two)
        tl.store(scratch + 2 * R * K * C + part * KP + kidx, n, mask=(kidx < KP) & (unit < R))
        here = scratch + part * K * C + kidx[:, None] * C + c[None, :]
        inside_sums = (kidx < K)[:, None] & (c < C)[None, :]
        tl.store(here, one, mask=inside_sums)
        tl.store(here + R * K * C, two, mask=inside_sums)


@triton.jit
def add(partial, R, step, c, inside, BP: tl.constexpr, BC: tl.constexpr):
    """Σ_r partial[r * step + c]."""
    total = tl.zeros((BC,), tl.float32)
    for r0 in range(0, R, BP):
        r = r0 + tl.arange(0, BP)
        total += tl.sum(
            tl.load(partial + r[:, None] * step + c[None, :], mask=(r < R)[:, None] & inside[None, :], other=0.0),
            axis=0,
        )
    return total


@triton.jit
def maximize(
    scratch, shift, weights, means, variances, kept, again,
    R, C, K, min_weight, eps,
    KP: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Add up the parts' sums to weights, means and variances; ``shift`` stays for a component without rows.

    Into ``kept``, which K components hold at least ``min_weight`` of the rows, or most; and ``again`` becomes positive
    where another pass is needed: because one does not, or because a variance lost digits to a mean that is far from
    ``shift``.
    """
    kidx = tl.arange(0, KP)
    counts = scratch + 2 * R * K * C
    n = tl.zeros((KP,), tl.float32)
    for r0 in range(0, R, BP):
        r = r0 + tl.arange(0, BP)
        n += tl.sum(tl.load(counts + r[:, None] * KP + kidx[None, :], mask=(r < R)[:, None], other=0.0), axis=0)
    weight = n / tl.sum(n)
    for unit in range(tl.program_id(0), K * tl.cdiv(C, BC), tl.num_programs(0)):
        k = unit % K
        c = (unit // K) * BC + tl.arange(0, BC)
        count = tl.sum(tl.where(kidx == k, n, 0.0))
        total = tl.where(count > 0, count, 1.0)
        delta = add(scratch + k * C, R, K * C, c, c < C, BP, BC) / total
        square = add(scratch + (R * K + k) * C, R, K * C, c, c < C, BP, BC) / total
        var = square - delta * delta
        tl.store(means + k * C + c, vector(shift + k * C, c, C) + delta, mask=c < C)
        tl.store(variances + k * C + c, tl.where(var < 0, 0.0, var), mask=c < C)
        tl.store(weights + kidx, weight, mask=(kidx < K) & (unit == 0))
        keep = (weight >= min_weight) | (weight == tl.max(weight))
        tl.store(kept + kidx, keep.to(tl.float32), mask=(kidx < K) & (unit == 0))
        # 1e-5 of the variance, against float32's 1.2e-7 of what it is the difference from.
        lost = (square * 1.2e-7 > 1e-5 * (var + eps)) & (c < C)
        dropped = (kidx < K) & (weight > 0) & (keep == 0)
        if tl.sum(lost.to(tl.int32)) + tl.sum(dropped.to(tl.int32)) > 0:
            tl.atomic_add(again, 1.0)
