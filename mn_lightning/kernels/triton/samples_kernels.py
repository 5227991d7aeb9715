"""The passes of ModeNorm and ModeGroupNorm, and the small steps between them, as Triton kernels.

An activation is read in tiles of BM pixels and BC channels of one sample. Moments p (mean) and w (biased variance) of a
sample's channel, ``(N, C)``, are all that the norms' formulas need of it; what comes out is one affine map for each
sample and channel. What belongs to samples and modes, ``(N, KP)``, has KP >= K columns, a power of 2.
"""

import triton
import triton.language as tl


@triton.jit
def _load(x, n, pixel, c, inside, sn, sl, sc):
    """A tile of ``x`` in float32, 0 where there is nothing."""
    at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _vector(values, c, C):
    """Parameters of some channels, in float32."""
    return tl.load(values + c, mask=c < C, other=0.0).to(tl.float32)


@triton.jit
def _column(values, k, KP: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, KP) == k)[None, :], values, 0.0), axis=1)


@triton.jit
def pool(
    x, mean, within,
    N, L, C, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, CENTRED: tl.constexpr,
):  # fmt: skip
    """Mean and, CENTRED, biased variance of each sample's channels.

    Grid: one program for each sample, and for every BC channels.
    """
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    middle = tl.zeros((BC,), tl.float32)
    around = tl.zeros((BC,), tl.float32)
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = _load(x, n, pixel, c, inside, sn, sl, sc)
        here = tl.minimum(L - start, BM).to(tl.float32)
        total = here + start
        of_tile = tl.sum(tile, axis=0) / here
        apart = of_tile - middle
        if CENTRED:
            d = tl.where(inside, tile - of_tile[None, :], 0.0)
            around += tl.sum(d * d, axis=0) + apart * apart * (here * start / total)
        middle += apart * (here / total)
    tl.store(mean + n * C + c, middle, mask=c < C)
    if CENTRED:
        tl.store(within + n * C + c, around / L, mask=c < C)


@triton.jit
def mode_gates(
    mean, weight, bias, log_gates,
    N, C, K,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """Log softmax_k(W p + b), ``(N, KP)``. Grid: one program for every BN samples."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    kidx = tl.arange(0, KP)
    z = tl.zeros((BN, KP), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = (n < N)[:, None] & (c < C)[None, :]
        p = tl.load(mean + n[:, None] * C + c[None, :], mask=inside, other=0.0)
        for k in range(0, K):
            part = tl.sum(p * _vector(weight + k * C, c, C)[None, :], axis=1)
            z = tl.where((kidx == k)[None, :], z + part[:, None], z)
    z += _vector(bias, kidx, K)[None, :]
    z = tl.where((kidx < K)[None, :], z, -float("inf"))
    z -= tl.max(z, axis=1)[:, None]
    z -= tl.log(tl.sum(tl.exp(z), axis=1))[:, None]
    tl.store(log_gates + n[:, None] * KP + kidx[None, :], z, mask=(n < N)[:, None])


@triton.jit
def _log_gates(log_gates, n, N, K, KP: tl.constexpr):
    """Rows of ``log_gates``, -inf beyond N and K."""
    kidx = tl.arange(0, KP)
    inside = (n < N)[:, None] & (kidx < K)[None, :]
    return tl.load(log_gates + n[:, None] * KP + kidx[None, :], mask=inside, other=-float("inf"))


@triton.jit
def mode_moments(
    mean, within, log_gates, share, mode_mean, mode_var,
    N, C, K,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """Each sample's share in each mode, g_nk / Σ_n g_nk, ``(N, KP)``; moments of the modes, ``(K, C)``.

    Grid: one program for every BC channels.
    """
    kidx = tl.arange(0, KP)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    # A mode whose gates all underflow to 0 has shares all the same, as they are taken from the logarithms.
    largest = tl.zeros((KP,), tl.float32) - float("inf")
    for start in range(0, N, BN):
        largest = tl.maximum(largest, tl.max(_log_gates(log_gates, start + tl.arange(0, BN), N, K, KP), axis=0))
    largest = tl.where(kidx < K, largest, 0.0)
    total = tl.zeros((KP,), tl.float32)
    for start in range(0, N, BN):
        scaled = tl.exp(_log_gates(log_gates, start + tl.arange(0, BN), N, K, KP) - largest[None, :])
        total += tl.sum(scaled, axis=0)
    total = tl.where(kidx < K, total, 1.0)
    middle = tl.zeros((KP, BC), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        s = tl.exp(_log_gates(log_gates, n, N, K, KP) - largest[None, :]) / total[None, :]
        if tl.program_id(0) == 0:
            tl.store(share + n[:, None] * KP + kidx[None, :], s, mask=(n < N)[:, None])
        inside = (n < N)[:, None] & (c < C)[None, :]
        p = tl.load(mean + n[:, None] * C + c[None, :], mask=inside, other=0.0)
        for k in range(0, K):
            part = tl.sum(_column(s, k, KP)[:, None] * p, axis=0)
            middle = tl.where((kidx == k)[:, None], middle + part[None, :], middle)
    around = tl.zeros((KP, BC), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        s = tl.exp(_log_gates(log_gates, n, N, K, KP) - largest[None, :]) / total[None, :]
        inside = (n < N)[:, None] & (c < C)[None, :]
        p = tl.load(mean + n[:, None] * C + c[None, :], mask=inside, other=0.0)
        w = tl.load(within + n[:, None] * C + c[None, :], mask=inside, other=0.0)
        for k in range(0, K):
            this = (kidx == k)[:, None]
            d = p - tl.sum(tl.where(this, middle, 0.0), axis=0)[None, :]
            part = tl.sum(_column(s, k, KP)[:, None] * (d * d + w), axis=0)
            around = tl.where(this, around + part[None, :], around)
    at = kidx[:, None] * C + c[None, :]
    inside = (kidx < K)[:, None] & (c < C)[None, :]
    tl.store(mode_mean + at, middle, mask=inside)
    tl.store(mode_var + at, around, mask=inside)


@triton.jit
def average(running_mean, running_var, mean, var, size, momentum, unbiased, B: tl.constexpr):
    """Move running moments towards new ones, in place. Grid: one program for every B numbers."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    old = _vector(running_mean, i, size)
    tl.store(running_mean + i, old + momentum * (_vector(mean, i, size) - old), mask=i < size)
    old = _vector(running_var, i, size)
    tl.store(running_var + i, old + momentum * (unbiased * _vector(var, i, size) - old), mask=i < size)


@triton.jit
def _mode_slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA: tl.constexpr):
    slope = 1.0 / tl.sqrt(tl.load(mode_var + k * C + c, mask=c < C, other=1.0).to(tl.float32) + eps)
    if HAS_GAMMA:
        slope *= _vector(gamma, c, C)
    return slope


@triton.jit
def _gate(log_gates, n, k, KP: tl.constexpr):
    return tl.exp(tl.load(log_gates + n * KP + k))


@triton.jit
def _mode_map(log_gates, mode_mean, mode_var, gamma, beta, n, c, C, K, eps,
              KP: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr):  # fmt: skip
    """Slope and offset of a sample's channels."""
    slope = c.to(tl.float32) * 0.0
    offset = slope
    if HAS_BETA:
        offset += _vector(beta, c, C)
    for k in range(0, K):
        part = _gate(log_gates, n, k, KP) * _mode_slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA)
        slope += part
        offset -= part * _vector(mode_mean + k * C, c, C)
    return slope, offset


@triton.jit
def _group_map(of_samples, gamma, beta, n, c, C, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr):
    """Slope and offset of a sample's channels, from the sample's own, ``of_samples (N, 2)``."""
    slope = tl.load(of_samples + 2 * n) + c.to(tl.float32) * 0.0
    offset = tl.load(of_samples + 2 * n + 1) + c.to(tl.float32) * 0.0
    if HAS_GAMMA:
        g = _vector(gamma, c, C)
        slope *= g
        offset *= g
    if HAS_BETA:
        offset += _vector(beta, c, C)
    return slope, offset


@triton.jit
def mode_apply(
    x, log_gates, mode_mean, mode_var, gamma, beta, y,
    N, L, C, K, sn, sl, sc, eps,
    BM: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
):  # fmt: skip
    """Y = x slope_nc + offset_nc. Grid: as in :func:`pool`."""
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    slope, offset = _mode_map(log_gates, mode_mean, mode_var, gamma, beta, n, c, C, K, eps, KP, HAS_GAMMA, HAS_BETA)
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = _load(x, n, pixel, c, inside, sn, sl, sc) * slope[None, :] + offset[None, :]
        at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
        tl.store(y + at, tile.to(y.dtype.element_ty), mask=inside)


@triton.jit
def group_apply(
    x, of_samples, gamma, beta, y,
    N, L, C, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
):  # fmt: skip
    """Y = x slope_nc + offset_nc. Grid: as in :func:`pool`."""
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    slope, offset = _group_map(of_samples, gamma, beta, n, c, C, HAS_GAMMA, HAS_BETA)
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = _load(x, n, pixel, c, inside, sn, sl, sc) * slope[None, :] + offset[None, :]
        at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
        tl.store(y + at, tile.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gradient_pool(
    x, dy, mean, plain, centred,
    N, L, C, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Σ dy and Σ dy (x - p) of each sample's channels. Grid: as in :func:`pool`."""
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    middle = tl.load(mean + n * C + c, mask=c < C, other=0.0)
    one = tl.zeros((BC,), tl.float32)
    two = tl.zeros((BC,), tl.float32)
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        grad = _load(dy, n, pixel, c, inside, sn, sl, sc)
        one += tl.sum(grad, axis=0)
        two += tl.sum(grad * (_load(x, n, pixel, c, inside, sn, sl, sc) - middle[None, :]), axis=0)
    tl.store(plain + n * C + c, one, mask=c < C)
    tl.store(centred + n * C + c, two, mask=c < C)


@triton.jit
def mode_gradient_moments(
    plain, centred, mean, log_gates, mode_mean, mode_var, gamma, dgamma, dbeta, dmean, dvar,
    N, C, K, eps,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr,
):  # fmt: skip
    """Gradients of γ, β and the modes' moments. Grid: one program for every BC channels."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    of_gamma = tl.zeros((BC,), tl.float32)
    of_beta = tl.zeros((BC,), tl.float32)
    g = tl.full((BC,), 1.0, tl.float32)
    if HAS_GAMMA:
        g = _vector(gamma, c, C)
    for k in range(0, K):
        middle = _vector(mode_mean + k * C, c, C)
        inverse = _mode_slope(mode_var, gamma, k, c, C, eps, False)
        one = tl.zeros((BC,), tl.float32)
        two = tl.zeros((BC,), tl.float32)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            inside = (n < N)[:, None] & (c < C)[None, :]
            at = n[:, None] * C + c[None, :]
            gate = tl.exp(tl.load(log_gates + n * KP + k, mask=n < N, other=-float("inf")))[:, None]
            a = tl.load(plain + at, mask=inside, other=0.0) * gate
            b = tl.load(centred + at, mask=inside, other=0.0) * gate
            p = tl.load(mean + at, mask=inside, other=0.0)
            one += tl.sum(a, axis=0)
            two += tl.sum(b + (p - middle[None, :]) * a, axis=0)
        of_beta += one
        of_gamma += inverse * two
        tl.store(dmean + k * C + c, -g * inverse * one, mask=c < C)
        tl.store(dvar + k * C + c, -0.5 * g * two * inverse * inverse * inverse, mask=c < C)
    tl.store(dgamma + c, of_gamma, mask=c < C)
    tl.store(dbeta + c, of_beta, mask=c < C)


@triton.jit
def mode_gradient_gates(
    plain, centred, mean, within, log_gates, mode_mean, mode_var, gamma, dmean, dvar, dgates, dshare,
    N, C, K, eps,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Gradients of log g_nk through the map, and of the shares in the modes, ``(N, KP)`` each.

    Grid: one program for every BN samples.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    kidx = tl.arange(0, KP)
    direct = tl.zeros((BN, KP), tl.float32)
    shared = tl.zeros((BN, KP), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = (n < N)[:, None] & (c < C)[None, :]
        at = n[:, None] * C + c[None, :]
        a = tl.load(plain + at, mask=inside, other=0.0)
        b = tl.load(centred + at, mask=inside, other=0.0)
        p = tl.load(mean + at, mask=inside, other=0.0)
        w = a
        if MOMENTS:
            w = tl.load(within + at, mask=inside, other=0.0)
        for k in range(0, K):
            this = (kidx == k)[None, :]
            slope = tl.where(c < C, _mode_slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA), 0.0)
            d = p - _vector(mode_mean + k * C, c, C)[None, :]
            direct = tl.where(this, direct + tl.sum(slope[None, :] * (b + d * a), axis=1)[:, None], direct)
            if MOMENTS:
                # Relative to the mode's mean: a constant more for all samples falls out of the softmax over them.
                part = _vector(dmean + k * C, c, C)[None, :] * d
                part += _vector(dvar + k * C, c, C)[None, :] * (d * d + w)
                shared = tl.where(this, shared + tl.sum(part, axis=1)[:, None], shared)
    direct *= tl.exp(_log_gates(log_gates, n, N, K, KP))
    to = n[:, None] * KP + kidx[None, :]
    tl.store(dgates + to, direct, mask=(n < N)[:, None])
    tl.store(dshare + to, shared, mask=(n < N)[:, None])


@triton.jit
def mode_gradient_logits(
    mean, log_gates, share, dgates, dshare, dlogits, dweight, dbias,
    N, C, K,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates' logits, ``(N, KP)``, weight and bias. Grid: one program for every BC channels."""
    kidx = tl.arange(0, KP)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    total = tl.zeros((KP,), tl.float32)
    if MOMENTS:
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            at = n[:, None] * KP + kidx[None, :]
            inside = (n < N)[:, None] & (kidx < K)[None, :]
            s = tl.load(share + at, mask=inside, other=0.0)
            total += tl.sum(s * tl.load(dshare + at, mask=inside, other=0.0), axis=0)
    of_weight = tl.zeros((KP, BC), tl.float32)
    of_bias = tl.zeros((KP,), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        at = n[:, None] * KP + kidx[None, :]
        inside = (n < N)[:, None] & (kidx < K)[None, :]
        d = tl.load(dgates + at, mask=inside, other=0.0)
        if MOMENTS:
            s = tl.load(share + at, mask=inside, other=0.0)
            d += s * (tl.load(dshare + at, mask=inside, other=0.0) - total[None, :])
        d -= tl.exp(_log_gates(log_gates, n, N, K, KP)) * tl.sum(d, axis=1)[:, None]
        if tl.program_id(0) == 0:
            tl.store(dlogits + at, d, mask=inside)
        of_bias += tl.sum(d, axis=0)
        p = tl.load(mean + n[:, None] * C + c[None, :], mask=(n < N)[:, None] & (c < C)[None, :], other=0.0)
        for k in range(0, K):
            part = tl.sum(_column(d, k, KP)[:, None] * p, axis=0)
            of_weight = tl.where((kidx == k)[:, None], of_weight + part[None, :], of_weight)
    tl.store(dweight + kidx[:, None] * C + c[None, :], of_weight, mask=(kidx < K)[:, None] & (c < C)[None, :])
    tl.store(dbias + kidx, of_bias, mask=(kidx < K) & (tl.program_id(0) == 0))


@triton.jit
def mode_gradient_rows(
    x, dy, mean, log_gates, share, dlogits, weight, mode_mean, mode_var, gamma, dmean, dvar, dx,
    N, L, C, K, sn, sl, sc, eps,
    BM: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Dx = dy slope + dp / L + 2 dw (x - p) / L. Grid: as in :func:`pool`."""
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    p = tl.load(mean + n * C + c, mask=c < C, other=0.0)
    slope = tl.zeros((BC,), tl.float32)
    constant = tl.zeros((BC,), tl.float32)
    factor = tl.zeros((BC,), tl.float32)
    for k in range(0, K):
        slope += _gate(log_gates, n, k, KP) * _mode_slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA)
        constant += tl.load(dlogits + n * KP + k) * _vector(weight + k * C, c, C)
        if MOMENTS:
            s = tl.load(share + n * KP + k)
            of_var = _vector(dvar + k * C, c, C)
            d = p - _vector(mode_mean + k * C, c, C)
            constant += s * (_vector(dmean + k * C, c, C) + 2.0 * of_var * d)
            factor += 2.0 * s * of_var
    constant /= L
    factor /= L
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = _load(dy, n, pixel, c, inside, sn, sl, sc) * slope[None, :] + constant[None, :]
        if MOMENTS:
            tile += factor[None, :] * (_load(x, n, pixel, c, inside, sn, sl, sc) - p[None, :])
        at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
        tl.store(dx + at, tile.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _group_log_gates(p, weight, bias, c, C, K, KP: tl.constexpr):
    """Log softmax_k(w p_c + b), ``(BC, KP)``; -inf beyond C and K."""
    kidx = tl.arange(0, KP)
    z = p[:, None] * _vector(weight, kidx, K)[None, :] + _vector(bias, kidx, K)[None, :]
    z = tl.where((kidx < K)[None, :], z, -float("inf"))
    z -= tl.max(z, axis=1)[:, None]
    z -= tl.log(tl.sum(tl.exp(z), axis=1))[:, None]
    return tl.where((c < C)[:, None], z, -float("inf"))


@triton.jit
def group_moments(
    mean, within, weight, bias, of_samples, stats,
    C, K, eps,
    BC: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """Slope and offset of a sample, ``(N, 2)``, from its modes' moments over channels and pixels.

    ``stats (N, 4, KP)``: largest log gate, Σ_c exp of the others relative to it, mean and variance of each mode.

    Grid: one program for each sample.
    """
    n = tl.program_id(0)
    kidx = tl.arange(0, KP)
    largest = tl.zeros((KP,), tl.float32) - float("inf")
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        z = _group_log_gates(_vector(mean + n * C, c, C), weight, bias, c, C, K, KP)
        largest = tl.maximum(largest, tl.max(z, axis=0))
    largest = tl.where(kidx < K, largest, 0.0)
    total = tl.zeros((KP,), tl.float32)
    middle = tl.zeros((KP,), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        p = _vector(mean + n * C, c, C)
        e = tl.exp(_group_log_gates(p, weight, bias, c, C, K, KP) - largest[None, :])
        total += tl.sum(e, axis=0)
        middle += tl.sum(e * p[:, None], axis=0)
    total = tl.where(kidx < K, total, 1.0)
    middle /= total
    around = tl.zeros((KP,), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        p = _vector(mean + n * C, c, C)
        e = tl.exp(_group_log_gates(p, weight, bias, c, C, K, KP) - largest[None, :])
        d = p[:, None] - middle[None, :]
        around += tl.sum(e * (d * d + _vector(within + n * C, c, C)[:, None]), axis=0)
    around /= total
    inverse = tl.where(kidx < K, 1.0 / tl.sqrt(around + eps), 0.0)
    tl.store(of_samples + 2 * n, tl.sum(inverse) / K)
    tl.store(of_samples + 2 * n + 1, -tl.sum(inverse * middle) / K)
    at = stats + n * 4 * KP + kidx
    tl.store(at, largest)
    tl.store(at + KP, total)
    tl.store(at + 2 * KP, middle)
    tl.store(at + 3 * KP, around)


@triton.jit
def group_gradient_moments(
    plain, centred, mean, within, weight, bias, gamma, stats, constant, factor, dparameters,
    L, C, K, eps,
    BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr,
):  # fmt: skip
    """What dx has besides dy slope: constant + factor (x - p), ``(N, C)``; and each sample's dw and db, ``(N, 2, KP)``.

    Grid: one program for each sample.
    """
    n = tl.program_id(0)
    kidx = tl.arange(0, KP)
    at = stats + n * 4 * KP + kidx
    largest = tl.load(at)
    total = tl.load(at + KP)
    middle = tl.load(at + 2 * KP)
    inverse = tl.where(kidx < K, 1.0 / tl.sqrt(tl.load(at + 3 * KP) + eps), 0.0)
    of_offset = 0.0
    of_inverse = tl.zeros((KP,), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        a = _vector(plain + n * C, c, C)
        b = _vector(centred + n * C, c, C)
        if HAS_GAMMA:
            g = _vector(gamma, c, C)
            a *= g
            b *= g
        d = _vector(mean + n * C, c, C)[:, None] - middle[None, :]
        of_offset += tl.sum(a)
        of_inverse += tl.sum(b[:, None] + tl.where((c < C)[:, None], d, 0.0) * a[:, None], axis=0)
    dmean = -inverse * of_offset / K
    dvar = -0.5 * inverse * inverse * inverse * of_inverse / K
    mixed = tl.zeros((KP,), tl.float32)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        p = _vector(mean + n * C, c, C)
        s = tl.exp(_group_log_gates(p, weight, bias, c, C, K, KP) - largest[None, :]) / total[None, :]
        d = p[:, None] - middle[None, :]
        mixed += tl.sum(
            s * (dmean[None, :] * d + dvar[None, :] * (d * d + _vector(within + n * C, c, C)[:, None])), axis=0
        )
    of_weight = tl.zeros((KP,), tl.float32)
    of_bias = tl.zeros((KP,), tl.float32)
    w_k = _vector(weight, kidx, K)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        p = _vector(mean + n * C, c, C)
        z = _group_log_gates(p, weight, bias, c, C, K, KP)
        s = tl.exp(z - largest[None, :]) / total[None, :]
        d = p[:, None] - middle[None, :]
        shared = dmean[None, :] * d + dvar[None, :] * (d * d + _vector(within + n * C, c, C)[:, None])
        dz = s * (shared - mixed[None, :])
        dz -= tl.exp(z) * tl.sum(dz, axis=1)[:, None]
        dp = tl.sum(s * (dmean[None, :] + 2.0 * dvar[None, :] * d) + dz * w_k[None, :], axis=1)
        tl.store(constant + n * C + c, dp / L, mask=c < C)
        tl.store(factor + n * C + c, 2.0 * tl.sum(s * dvar[None, :], axis=1) / L, mask=c < C)
        of_weight += tl.sum(dz * p[:, None], axis=0)
        of_bias += tl.sum(dz, axis=0)
    to = dparameters + n * 2 * KP + kidx
    tl.store(to, of_weight)
    tl.store(to + KP, of_bias)


@triton.jit
def group_gradient_parameters(
    plain, centred, mean, of_samples, dparameters, dgamma, dbeta, dweight, dbias,
    N, C, K,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """Gradients of γ, β and of the gates' parameters. Grid: one program for every BC channels."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    kidx = tl.arange(0, KP)
    of_gamma = tl.zeros((BC,), tl.float32)
    of_beta = tl.zeros((BC,), tl.float32)
    of_weight = tl.zeros((KP,), tl.float32)
    of_bias = tl.zeros((KP,), tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        inside = (n < N)[:, None] & (c < C)[None, :]
        at = n[:, None] * C + c[None, :]
        a = tl.load(plain + at, mask=inside, other=0.0)
        b = tl.load(centred + at, mask=inside, other=0.0)
        p = tl.load(mean + at, mask=inside, other=0.0)
        slope = tl.load(of_samples + 2 * n, mask=n < N, other=0.0)[:, None]
        offset = tl.load(of_samples + 2 * n + 1, mask=n < N, other=0.0)[:, None]
        of_gamma += tl.sum(slope * b + (slope * p + offset) * a, axis=0)
        of_beta += tl.sum(a, axis=0)
        to = dparameters + n[:, None] * 2 * KP + kidx[None, :]
        of_weight += tl.sum(tl.load(to, mask=(n < N)[:, None], other=0.0), axis=0)
        of_bias += tl.sum(tl.load(to + KP, mask=(n < N)[:, None], other=0.0), axis=0)
    tl.store(dgamma + c, of_gamma, mask=c < C)
    tl.store(dbeta + c, of_beta, mask=c < C)
    first = (kidx < K) & (tl.program_id(0) == 0)
    tl.store(dweight + kidx, of_weight, mask=first)
    tl.store(dbias + kidx, of_bias, mask=first)


@triton.jit
def group_gradient_rows(
    x, dy, mean, of_samples, gamma, constant, factor, dx,
    N, L, C, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr,
):  # fmt: skip
    """Dx = dy slope + constant + factor (x - p). Grid: as in :func:`pool`."""
    n = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    p = _vector(mean + n * C, c, C)
    slope, _ = _group_map(of_samples, gamma, gamma, n, c, C, HAS_GAMMA, False)
    added = _vector(constant + n * C, c, C)
    times = _vector(factor + n * C, c, C)
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = _load(dy, n, pixel, c, inside, sn, sl, sc) * slope[None, :] + added[None, :]
        tile += times[None, :] * (_load(x, n, pixel, c, inside, sn, sl, sc) - p[None, :])
        at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
        tl.store(dx + at, tile.to(dx.dtype.element_ty), mask=inside)
