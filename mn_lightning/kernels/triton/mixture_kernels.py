"""The passes of a mixture's fit and of the normalization under it, as Triton kernels.

Where a kernel reads rows, it takes tiles of BM rows and BC features. All rows of a tile are in one block, so that their
addresses follow one another. K, at most KP (a power of 2), is looped over; a tensor ``(BM, KP)`` or ``(KP, BC)`` holds
what belongs to each component. Sums over rows are first made by each of P programs for its own tiles, then added up in
the order of the programs: the same result every time, which atomic additions would not give.

Sums are taken around a component's mean, so that no digits are lost where rows are far from 0.
"""

import triton
import triton.language as tl

# Below this a logarithm of a density is not distinguished: one -inf for all components would make a NaN.
_LOWEST = tl.constexpr(-8.5e37)


@triton.jit
def _place(t, tiles, L, BM: tl.constexpr):
    """Block of tile ``t``, its rows in the block, and which of them there are."""
    row = (t % tiles) * BM + tl.arange(0, BM)
    return (t // tiles).to(tl.int64), row, row < L


@triton.jit
def _posteriors_at(nu, block, row, B, L):
    """Where the posteriors of a tile's rows are, for component 0, and how far it is to the next component's."""
    apart = (block * 0 + B) * L  # int64
    return nu + block * L + row, apart


@triton.jit
def _load(x, block, row, c, inside, sb, sl, sc):
    """A tile of ``x`` in float32, 0 where there is nothing."""
    return tl.load(x + block * sb + row[:, None] * sl + c[None, :] * sc, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _row_of(values, k, KP: tl.constexpr):
    """Column k of ``(BM, KP)``."""
    return tl.sum(tl.where((tl.arange(0, KP) == k)[None, :], values, 0.0), axis=1)


@triton.jit
def _affinity(
    x, weights, means, variances, kept, block, row, there, C, K, sb, sl, sc, eps,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, NEAREST: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """How much each component has of each row of a tile, ``(BM, KP)``.

    NEAREST: 1 for the nearest mean, the first of several; otherwise the posteriors of Eq. 31, over components that are
    in use and, where KEPT, among ``kept``.
    """
    kidx = tl.arange(0, KP)
    total = tl.zeros((BM, KP), tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        tile = _load(x, block, row, c, there[:, None] & (c < C)[None, :], sb, sl, sc)
        for k in range(0, K):
            mean = tl.load(means + k * C + c, mask=c < C, other=0.0)
            d = tile - mean[None, :]
            if NEAREST:
                s = tl.sum(d * d, axis=1)
            else:
                var = tl.load(variances + k * C + c, mask=c < C, other=1.0) + eps
                precision = tl.where(c < C, 1.0 / var, 0.0)
                s = tl.sum(d * d * precision[None, :], axis=1) + tl.sum(tl.where(c < C, tl.log(var), 0.0))
            total = tl.where((kidx == k)[None, :], total + s[:, None], total)
    if NEAREST:
        nearest = tl.argmin(tl.where((kidx < K)[None, :], total, float("inf")), axis=1)
        nu = (nearest[:, None] == kidx[None, :]).to(tl.float32)
    else:
        weight = tl.load(weights + kidx, mask=kidx < K, other=0.0)
        used = weight > 0
        if KEPT:
            used = tl.load(kept + kidx, mask=kidx < K, other=0.0) > 0
        score = tl.log(tl.where(weight > 0, weight, 1.0))[None, :] - 0.5 * total
        score = tl.where(score < _LOWEST, _LOWEST, score)  # a NaN stays one
        score = tl.where(used[None, :], score, -float("inf"))
        e = tl.exp(score - tl.max(score, axis=1)[:, None])
        nu = e / tl.sum(e, axis=1)[:, None]
    return tl.where(there[:, None], nu, 0.0)


@triton.jit
def _another_pass(signals, K, n_flags, NF: tl.constexpr):
    """Whether one of the flags that come after which components are kept is set."""
    every = tl.arange(0, NF)
    return tl.sum(tl.load(signals + K + every, mask=every < n_flags, other=0.0)) > 0


@triton.jit
def sums(
    x, weights, means, variances, shift, signals, scratch, nu,
    B, L, C, K, sb, sl, sc, tiles, eps, n_flags,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, NF: tl.constexpr,
    NEAREST: tl.constexpr, STORE: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """One pass: Σ ν (x - shift), Σ ν (x - shift)² and Σ ν of each program's rows; STORE writes ν, ``(K, B L)``.

    ``scratch`` holds them one after the other, ``(P, K, C)`` twice and ``(P, KP)``.

    With AGAIN, components that :func:`maximize` has dropped get no rows, and nothing is done unless it has said so.

    Grid: P programs that share out the rows, and one for every BC features.
    """
    needed = True
    if AGAIN:
        needed = _another_pass(signals, K, n_flags, NF)
    if needed:
        p, P = tl.program_id(0), tl.num_programs(0)
        kidx = tl.arange(0, KP)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        n = tl.zeros((KP,), tl.float32)
        one = tl.zeros((KP, BC), tl.float32)
        two = tl.zeros((KP, BC), tl.float32)
        for t in range(p, B * tiles, P):
            block, row, there = _place(t, tiles, L, BM)
            share = _affinity(
                x, weights, means, variances, signals, block, row, there, C, K, sb, sl, sc, eps,
                KP, BM, BC, NEAREST, AGAIN,
            )  # fmt: skip
            n += tl.sum(share, axis=0)
            if STORE:
                if tl.program_id(1) == 0:
                    at, apart = _posteriors_at(nu, block, row, B, L)
                    tl.store(at[:, None] + kidx[None, :] * apart, share, mask=there[:, None] & (kidx < K)[None, :])
            tile = _load(x, block, row, c, there[:, None] & (c < C)[None, :], sb, sl, sc)
            for k in range(0, K):
                d = tile - tl.load(shift + k * C + c, mask=c < C, other=0.0)[None, :]
                weighted = _row_of(share, k, KP)[:, None] * d
                this = (kidx == k)[:, None]
                one = tl.where(this, one + tl.sum(weighted, axis=0)[None, :], one)
                two = tl.where(this, two + tl.sum(weighted * d, axis=0)[None, :], two)
        if tl.program_id(1) == 0:
            tl.store(scratch + 2 * P * K * C + p * KP + kidx, n)
        here = scratch + p * K * C + kidx[:, None] * C + c[None, :]
        inside = (kidx < K)[:, None] & (c < C)[None, :]
        tl.store(here, one, mask=inside)
        tl.store(here + P * K * C, two, mask=inside)


@triton.jit
def _columns(values, c, C, K, other, KP: tl.constexpr):
    """Rows of ``(K, C)`` for some features, ``(KP, BC)``."""
    kidx = tl.arange(0, KP)
    inside = (kidx < K)[:, None] & (c < C)[None, :]
    return tl.load(values + kidx[:, None] * C + c[None, :], mask=inside, other=other)


@triton.jit
def sums_at_once(
    x, weights, means, variances, scratch, nu,
    B, L, C, K, sb, sl, sc, tiles, eps,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, NEAREST: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """:func:`sums` around the means, for a few components and features: all of them in registers at the same time.

    Nothing is added up over rows before the last of them has been read, and what belongs to the components is loaded
    once. Grid: P programs that share out the rows.
    """
    p, P = tl.program_id(0), tl.num_programs(0)
    kidx = tl.arange(0, KP)
    c = tl.arange(0, BC)
    mean = _columns(means, c, C, K, 0.0, KP)
    if NEAREST:
        scale = tl.where((c < C)[None, :] & (kidx < K)[:, None], 1.0, 0.0)
        constant = tl.zeros((KP,), tl.float32)
    else:
        var = _columns(variances, c, C, K, 1.0, KP) + eps
        here = (c < C)[None, :] & (kidx < K)[:, None]
        scale = tl.where(here, 0.5 / var, 0.0)
        weight = tl.load(weights + kidx, mask=kidx < K, other=0.0)
        constant = 0.5 * tl.sum(tl.where(here, tl.log(var), 0.0), axis=1) - tl.log(tl.where(weight > 0, weight, 1.0))
        used = weight > 0
    n = tl.zeros((KP, BM), tl.float32)
    one = tl.zeros((KP, BM, BC), tl.float32)
    two = tl.zeros((KP, BM, BC), tl.float32)
    for t in range(p, B * tiles, P):
        block, row, there = _place(t, tiles, L, BM)
        tile = _load(x, block, row, c, there[:, None] & (c < C)[None, :], sb, sl, sc)
        d = tile[None, :, :] - mean[:, None, :]
        cost = tl.sum(d * d * scale[:, None, :], axis=2) + constant[:, None]
        if NEAREST:
            nearest = tl.argmin(tl.where((kidx < K)[:, None], cost, float("inf")), axis=0)  # of numbers, also of NaNs
            share = (nearest[None, :] == kidx[:, None]).to(tl.float32)
        else:
            score = tl.where(-cost < _LOWEST, _LOWEST, -cost)  # a NaN stays one
            score = tl.where(used[:, None], score, -float("inf"))
            e = tl.exp(score - tl.max(score, axis=0)[None, :])
            share = e / tl.sum(e, axis=0)[None, :]
        share = tl.where(there[None, :], share, 0.0)
        if STORE:
            at, apart = _posteriors_at(nu, block, row, B, L)
            tl.store(at[None, :] + kidx[:, None] * apart, share, mask=there[None, :] & (kidx < K)[:, None])
        n += share
        weighted = share[:, :, None] * d
        one += weighted
        two += weighted * d
    tl.store(scratch + 2 * P * K * C + p * KP + kidx, tl.sum(n, axis=1))
    here = scratch + p * K * C + kidx[:, None] * C + c[None, :]
    inside = (kidx < K)[:, None] & (c < C)[None, :]
    tl.store(here, tl.sum(one, axis=1), mask=inside)
    tl.store(here + P * K * C, tl.sum(two, axis=1), mask=inside)


@triton.jit
def gradient_sums_at_once(
    x, dy, nu, means, scratch,
    B, L, C, K, sb, sl, sc, tiles,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """:func:`gradient_sums` without an activation, for a few components and features, as :func:`sums_at_once`.

    Grid: P programs that share out the rows.
    """
    p, P = tl.program_id(0), tl.num_programs(0)
    kidx = tl.arange(0, KP)
    c = tl.arange(0, BC)
    mean = _columns(means, c, C, K, 0.0, KP)
    one = tl.zeros((KP, BM, BC), tl.float32)
    two = tl.zeros((KP, BM, BC), tl.float32)
    for t in range(p, B * tiles, P):
        block, row, there = _place(t, tiles, L, BM)
        inside = there[:, None] & (c < C)[None, :]
        tile = _load(x, block, row, c, inside, sb, sl, sc)
        grad = _load(dy, block, row, c, inside, sb, sl, sc)
        at, apart = _posteriors_at(nu, block, row, B, L)
        share = tl.load(at[None, :] + kidx[:, None] * apart, mask=there[None, :] & (kidx < K)[:, None], other=0.0)
        weighted = share[:, :, None] * grad[None, :, :]
        one += weighted
        two += weighted * (tile[None, :, :] - mean[:, None, :])
    here = scratch + p * K * C + kidx[:, None] * C + c[None, :]
    inside_sums = (kidx < K)[:, None] & (c < C)[None, :]
    tl.store(here, tl.sum(one, axis=1), mask=inside_sums)
    tl.store(here + P * K * C, tl.sum(two, axis=1), mask=inside_sums)


@triton.jit
def _add(partial, P, step, c, inside, BP: tl.constexpr, BC: tl.constexpr):
    """Σ_p partial[p * step + c]."""
    total = tl.zeros((BC,), tl.float32)
    for p0 in range(0, P, BP):
        p = p0 + tl.arange(0, BP)
        total += tl.sum(
            tl.load(partial + p[:, None] * step + c[None, :], mask=(p < P)[:, None] & inside[None, :], other=0.0),
            axis=0,
        )
    return total


@triton.jit
def maximize(
    scratch, shift, weights, means, variances, signals,
    P, C, K, n_flags, min_weight, eps,
    KP: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, NF: tl.constexpr, PRUNE: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """Add up the programs' sums to weights, means and variances; ``shift`` stays for a component without rows.

    PRUNE: into ``signals``, which K components hold at least ``min_weight`` of the rows, or most; and then, for each
    program, whether another pass is needed: because one does not, or because a variance lost digits to a mean that is
    far from ``shift``. With AGAIN, nothing is done unless one was.

    Grid: one program for every BC features, and for each component.
    """
    needed = True
    if AGAIN:
        needed = _another_pass(signals, K, n_flags, NF)
    if needed:
        counts = scratch + 2 * P * K * C
        k = tl.program_id(1)
        kidx = tl.arange(0, KP)
        n = tl.zeros((KP,), tl.float32)
        for p0 in range(0, P, BP):
            p = p0 + tl.arange(0, BP)
            n += tl.sum(tl.load(counts + p[:, None] * KP + kidx[None, :], mask=(p < P)[:, None], other=0.0), axis=0)
        weight = n / tl.sum(n)
        c = tl.program_id(0) * BC + tl.arange(0, BC)
        count = tl.sum(tl.where(kidx == k, n, 0.0))
        total = tl.where(count > 0, count, 1.0)
        delta = _add(scratch + k * C, P, K * C, c, c < C, BP, BC) / total
        square = _add(scratch + (P * K + k) * C, P, K * C, c, c < C, BP, BC) / total
        var = square - delta * delta
        tl.store(means + k * C + c, tl.load(shift + k * C + c, mask=c < C, other=0.0) + delta, mask=c < C)
        tl.store(variances + k * C + c, tl.where(var < 0, 0.0, var), mask=c < C)
        first_program = (tl.program_id(0) == 0) & (k == 0)
        tl.store(weights + kidx, weight, mask=(kidx < K) & first_program)
        if PRUNE:
            keep = (weight >= min_weight) | (weight == tl.max(weight))
            tl.store(signals + kidx, keep.to(tl.float32), mask=(kidx < K) & first_program)
            # 1e-5 of the variance, against float32's 1.2e-7 of what it is the difference from.
            lost = (square * 1.2e-7 > 1e-5 * (var + eps)) & (c < C)
            dropped = (kidx < K) & (weight > 0) & (keep == 0)
            tl.store(
                signals + K + tl.program_id(0) * K + k,
                tl.sum(tl.where(lost, 1.0, 0.0)) + tl.sum(tl.where(dropped, 1.0, 0.0)),
            )


@triton.jit
def _act(pre, slope, ACT: tl.constexpr):
    if ACT:
        pre = tl.where(pre > 0, pre, pre * slope)
    return pre


@triton.jit
def _component(weights, means, variances, gamma, beta, k, c, C, eps,
               HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr, INSIDE: tl.constexpr, SQRT: tl.constexpr):  # fmt: skip
    """Factor 1/√λ_k, centre and slope of component k's map; INSIDE: Eq. 37, γ and β belong to the mixture."""
    inside = c < C
    centre = tl.load(means + k * C + c, mask=inside, other=0.0)
    var = tl.load(variances + k * C + c, mask=inside, other=1.0)
    if INSIDE:
        if HAS_BETA:
            centre += tl.load(beta + c, mask=inside, other=0.0).to(tl.float32)
        if HAS_GAMMA:
            var *= tl.load(gamma + c, mask=inside, other=1.0).to(tl.float32)
    slope = 1.0 / tl.sqrt(var + eps)
    if HAS_GAMMA and not INSIDE:
        slope *= tl.load(gamma + c, mask=inside, other=1.0).to(tl.float32)
    factor = 1.0
    if SQRT:
        weight = tl.load(weights + k)
        factor = 1.0 / tl.sqrt(tl.where(weight > 0, weight, 1.0))
    return factor, centre, slope


@triton.jit
def apply(
    x, nu, weights, means, variances, gamma, beta, y,
    B, L, C, K, sb, sl, sc, tiles, eps, leak,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr, GIVEN: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Y = Σ_k ν_k / √λ_k act(slope_k (x - centre_k) + β); ν is GIVEN, or found first (and written, with STORE).

    Grid: one program for each tile of rows, and for every BC features; these are all taken by one where ν is found.
    """
    block, row, there = _place(tl.program_id(0), tiles, L, BM)
    kidx = tl.arange(0, KP)
    at, apart = _posteriors_at(nu, block, row, B, L)
    if not GIVEN:
        share = _affinity(
            x, weights, means, variances, weights, block, row, there, C, K, sb, sl, sc, eps, KP, BM, BC, False, False
        )
        if STORE:
            tl.store(at[:, None] + kidx[None, :] * apart, share, mask=there[:, None] & (kidx < K)[None, :])
    for c0 in range(tl.program_id(1) * BC, C, BC * tl.num_programs(1)):
        c = c0 + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        tile = _load(x, block, row, c, inside, sb, sl, sc)
        added = tl.zeros((BC,), tl.float32)
        if HAS_BETA and not INSIDE:
            added = tl.load(beta + c, mask=c < C, other=0.0).to(tl.float32)
        total = tl.zeros((BM, BC), tl.float32)
        for k in range(0, K):
            if GIVEN:
                part = tl.load(at + k * apart, mask=there, other=0.0)
            else:
                part = _row_of(share, k, KP)
            factor, centre, slope = _component(
                weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
            )
            pre = (tile - centre[None, :]) * slope[None, :]
            if ACT:
                pre = _act(pre + added[None, :], leak, ACT)
            total += (part * factor)[:, None] * pre
        if not ACT:
            total += added[None, :]
        tl.store(y + block * sb + row[:, None] * sl + c[None, :] * sc, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _through(dy, pre, slope, ACT: tl.constexpr):
    """Gradient of what goes into the activation."""
    if ACT:
        dy = tl.where(pre > 0, dy, dy * slope)
    return dy


@triton.jit
def gradient_sums(
    x, dy, nu, weights, means, variances, gamma, beta, scratch,
    B, L, C, K, sb, sl, sc, tiles, eps, leak,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Σ ν g and Σ ν g (x - mean) of each program's rows, with g the gradient of what component k's map makes.

    Grid: as in :func:`sums`.
    """
    p, P = tl.program_id(0), tl.num_programs(0)
    kidx = tl.arange(0, KP)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    added = tl.zeros((BC,), tl.float32)
    if HAS_BETA and not INSIDE:
        added = tl.load(beta + c, mask=c < C, other=0.0).to(tl.float32)
    one = tl.zeros((KP, BC), tl.float32)
    two = tl.zeros((KP, BC), tl.float32)
    for t in range(p, B * tiles, P):
        block, row, there = _place(t, tiles, L, BM)
        inside = there[:, None] & (c < C)[None, :]
        tile = _load(x, block, row, c, inside, sb, sl, sc)
        grad = _load(dy, block, row, c, inside, sb, sl, sc)
        at, apart = _posteriors_at(nu, block, row, B, L)
        for k in range(0, K):
            part = tl.load(at + k * apart, mask=there, other=0.0)
            g = grad
            if ACT:
                _, centre, slope = _component(
                    weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
                )
                g = _through(g, (tile - centre[None, :]) * slope[None, :] + added[None, :], leak, ACT)
            weighted = part[:, None] * g
            mean = tl.load(means + k * C + c, mask=c < C, other=0.0)
            this = (kidx == k)[:, None]
            one = tl.where(this, one + tl.sum(weighted, axis=0)[None, :], one)
            two = tl.where(this, two + tl.sum(weighted * (tile - mean[None, :]), axis=0)[None, :], two)
    here = scratch + p * K * C + kidx[:, None] * C + c[None, :]
    inside_sums = (kidx < K)[:, None] & (c < C)[None, :]
    tl.store(here, one, mask=inside_sums)
    tl.store(here + P * K * C, two, mask=inside_sums)


@triton.jit
def gradient_maps(
    scratch, weights, means, variances, gamma, beta, dgamma, dbeta, dmoments,
    P, C, K, rows, eps,
    BP: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Gradients of γ and β; and of each mean and variance, divided by the rows of the component, ``(2, K, C)``.

    Grid: one program for every BC features.
    """
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = c < C
    one_gamma = tl.zeros((BC,), tl.float32)
    one_beta = tl.zeros((BC,), tl.float32)
    g = tl.full((BC,), 1.0, tl.float32)
    b = tl.zeros((BC,), tl.float32)
    if HAS_GAMMA:
        g = tl.load(gamma + c, mask=inside, other=1.0).to(tl.float32)
    if HAS_BETA and INSIDE:
        b = tl.load(beta + c, mask=inside, other=0.0).to(tl.float32)
    for k in range(0, K):
        s = _add(scratch + k * C, P, K * C, c, inside, BP, BC)
        q = _add(scratch + (P * K + k) * C, P, K * C, c, inside, BP, BC)
        factor, _, slope = _component(
            weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
        )
        var = tl.load(variances + k * C + c, mask=inside, other=1.0)
        if INSIDE:
            dslope = factor * (q - b * s)
            dinner = -0.5 * dslope * slope * slope * slope  # of γ σ²
            one_gamma += dinner * var
            dvar = dinner * g
            one_beta -= factor * slope * s
        else:
            inverse = 1.0 / tl.sqrt(var + eps)
            one_gamma += factor * inverse * q
            dvar = -0.5 * factor * g * q * inverse * inverse * inverse
            if ACT:
                one_beta += factor * s
            else:
                one_beta += s  # Σ_k ν_k is 1
        count = tl.load(weights + k) * rows
        count = tl.where(count > 0, count, 1.0)
        tl.store(dmoments + k * C + c, -factor * slope * s / count, mask=inside)
        tl.store(dmoments + (K + k) * C + c, dvar / count, mask=inside)
    tl.store(dgamma + c, one_gamma, mask=inside)
    tl.store(dbeta + c, one_beta, mask=inside)


@triton.jit
def gradient_rows(
    x, dy, nu, weights, means, variances, gamma, beta, dmoments, dx,
    B, L, C, K, sb, sl, sc, tiles, eps, leak,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Dx = Σ_k ν_k (slope_k g / √λ_k + dμ_k + 2 dσ²_k (x - μ_k)); the moments' part only where they are of x.

    Grid: one program for each tile of rows, and for every BC features.
    """
    block, row, there = _place(tl.program_id(0), tiles, L, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = there[:, None] & (c < C)[None, :]
    grad = _load(dy, block, row, c, inside, sb, sl, sc)
    total = tl.zeros((BM, BC), tl.float32)
    tile = total
    if ACT or MOMENTS:
        tile = _load(x, block, row, c, inside, sb, sl, sc)
    added = tl.zeros((BC,), tl.float32)
    if HAS_BETA and not INSIDE:
        added = tl.load(beta + c, mask=c < C, other=0.0).to(tl.float32)
    at, apart = _posteriors_at(nu, block, row, B, L)
    for k in range(0, K):
        part = tl.load(at + k * apart, mask=there, other=0.0)
        factor, centre, slope = _component(
            weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
        )
        g = grad
        if ACT:
            g = _through(g, (tile - centre[None, :]) * slope[None, :] + added[None, :], leak, ACT)
        g = g * (slope * factor)[None, :]
        if MOMENTS:
            mean = tl.load(means + k * C + c, mask=c < C, other=0.0)
            dmean = tl.load(dmoments + k * C + c, mask=c < C, other=0.0)
            dvar = tl.load(dmoments + (K + k) * C + c, mask=c < C, other=0.0)
            g += dmean[None, :] + 2.0 * dvar[None, :] * (tile - mean[None, :])
        total += part[:, None] * g
    tl.store(dx + block * sb + row[:, None] * sl + c[None, :] * sc, total.to(dx.dtype.element_ty), mask=inside)
