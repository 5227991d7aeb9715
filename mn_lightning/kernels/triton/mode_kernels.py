"""ModeNorm as two Triton kernels, forward and backward: passes over the activation, and small steps between them.

What belongs to samples and modes, ``(N, KP)``, has KP >= K columns, a power of 2. The small steps go over samples BN
and channels BC at a time.
"""

import triton
import triton.language as tl

from mn_lightning.kernels.triton.pool_passes import apply, apply_gradient, column, gradient_pool, place, pool, vector
from mn_lightning.kernels.triton.steps import begins, ends


@triton.jit
def _kept(kept, N, C, K, KP: tl.constexpr):
    """What the forward pass keeps: mean, within ``(N, C)``, log gates, shares ``(N, KP)``, the modes' moments."""
    mean = kept
    within = mean + N * C
    log_gates = within + N * C
    share = log_gates + N * KP
    mode_mean = share + N * KP
    return mean, within, log_gates, share, mode_mean, mode_mean + K * C


@triton.jit
def _gates(mean, weight, bias, log_gates, N, C, K, BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr):
    """Log softmax_k(W p + b), ``(N, KP)``."""
    kidx = tl.arange(0, KP)
    for t in range(tl.program_id(0), tl.cdiv(N, BN), tl.num_programs(0)):
        n = t * BN + tl.arange(0, BN)
        z = tl.zeros((BN, KP), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            inside = (n < N)[:, None] & (c < C)[None, :]
            p = tl.load(mean + n[:, None] * C + c[None, :], mask=inside, other=0.0)
            for k in range(0, K):
                part = tl.sum(p * vector(weight + k * C, c, C)[None, :], axis=1)
                z = tl.where((kidx == k)[None, :], z + part[:, None], z)
        z += vector(bias, kidx, K)[None, :]
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
def _average(running, new, old_at, inside, momentum):
    """Move a running moment towards a new one, in place."""
    old = tl.load(running + old_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(running + old_at, old + momentum * (new - old), mask=inside)


@triton.jit
def _moments(
    mean, within, log_gates, share, mode_mean, mode_var, running_mean, running_var,
    N, C, K, momentum, unbiased,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, AVERAGE: tl.constexpr,
):  # fmt: skip
    """Each sample's share in each mode, g_nk / Σ_n g_nk, ``(N, KP)``; moments of the modes, ``(K, C)``."""
    kidx = tl.arange(0, KP)
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
    for t in range(tl.program_id(0), tl.cdiv(C, BC), tl.num_programs(0)):
        c = t * BC + tl.arange(0, BC)
        middle = tl.zeros((KP, BC), tl.float32)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            s = tl.exp(_log_gates(log_gates, n, N, K, KP) - largest[None, :]) / total[None, :]
            if t == 0:
                tl.store(share + n[:, None] * KP + kidx[None, :], s, mask=(n < N)[:, None])
            inside = (n < N)[:, None] & (c < C)[None, :]
            p = tl.load(mean + n[:, None] * C + c[None, :], mask=inside, other=0.0)
            for k in range(0, K):
                part = tl.sum(column(s, k, KP)[:, None] * p, axis=0)
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
                part = tl.sum(column(s, k, KP)[:, None] * (d * d + w), axis=0)
                around = tl.where(this, around + part[None, :], around)
        at = kidx[:, None] * C + c[None, :]
        inside = (kidx < K)[:, None] & (c < C)[None, :]
        tl.store(mode_mean + at, middle, mask=inside)
        tl.store(mode_var + at, around, mask=inside)
        if AVERAGE:
            _average(running_mean, middle, at, inside, momentum)
            _average(running_var, unbiased * around, at, inside, momentum)


@triton.jit
def _slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA: tl.constexpr):
    slope = 1.0 / tl.sqrt(tl.load(mode_var + k * C + c, mask=c < C, other=1.0).to(tl.float32) + eps)
    if HAS_GAMMA:
        slope *= vector(gamma, c, C)
    return slope


@triton.jit
def mode_norm(
    x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, kept, y, arrived,
    eps, momentum, unbiased, first, last, N, L, C, K, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, CS: tl.constexpr, BN: tl.constexpr, CN: tl.constexpr, KP: tl.constexpr,
    HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr, TRAINING: tl.constexpr, AVERAGE: tl.constexpr,
):  # fmt: skip
    """Y, and what the gradients need of the way there.

    TRAINING normalizes with the modes' moments in this batch, and with AVERAGE moves the running ones towards them;
    otherwise the running ones are taken. CS channels at a time go into the gates; CN, of BN samples, into the moments.

    Steps: the samples' moments; gates; TRAINING, the modes' moments; y.
    """
    mean, within, log_gates, share, mode_mean, mode_var = _kept(kept, N, C, K, KP)
    if begins(0, first, last, arrived):
        pool(x, mean, within, N, L, C, sn, sl, sc, BM, BC, TRAINING)
    if begins(1, first, last, arrived):
        _gates(mean, gate_weight, gate_bias, log_gates, N, C, K, 8, CS, KP)
    if TRAINING:
        if begins(2, first, last, arrived):
            _moments(
                mean, within, log_gates, share, mode_mean, mode_var, running_mean, running_var,
                N, C, K, momentum, unbiased, BN, CN, KP, AVERAGE,
            )  # fmt: skip
    if begins(2 + TRAINING, first, last, arrived):
        for t in range(tl.program_id(0), N * tl.cdiv(C, BC), tl.num_programs(0)):
            n, c = place(N * tl.cdiv(C, BC) - 1 - t, C, BC)  # what was read last is in the cache
            slope = tl.zeros((BC,), tl.float32)
            offset = tl.zeros((BC,), tl.float32)
            if HAS_BETA:
                offset += vector(beta, c, C)
            for k in range(0, K):
                part = tl.exp(tl.load(log_gates + n * KP + k))
                if TRAINING:
                    part *= _slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA)
                    offset -= part * vector(mode_mean + k * C, c, C)
                else:
                    part *= _slope(running_var, gamma, k, c, C, eps, HAS_GAMMA)
                    offset -= part * vector(running_mean + k * C, c, C)
                slope += part
            apply(x, y, n, c, slope, offset, L, C, sn, sl, sc, BM)
    ends(first, last, arrived)


@triton.jit
def _gradient_moments(
    plain, centred, mean, log_gates, mode_mean, mode_var, gamma, dgamma, dbeta, dmean, dvar,
    N, C, K, eps,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
):  # fmt: skip
    """Gradients of γ, β and the modes' moments."""
    for t in range(tl.program_id(0), tl.cdiv(C, BC), tl.num_programs(0)):
        c = t * BC + tl.arange(0, BC)
        of_gamma = tl.zeros((BC,), tl.float32)
        of_beta = tl.zeros((BC,), tl.float32)
        g = tl.full((BC,), 1.0, tl.float32)
        if HAS_GAMMA:
            g = vector(gamma, c, C)
        for k in range(0, K):
            middle = vector(mode_mean + k * C, c, C)
            inverse = _slope(mode_var, gamma, k, c, C, eps, False)
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
        if HAS_GAMMA:
            tl.store(dgamma + c, of_gamma, mask=c < C)
        if HAS_BETA:
            tl.store(dbeta + c, of_beta, mask=c < C)


@triton.jit
def _gradient_gates(
    plain, centred, mean, within, log_gates, mode_mean, mode_var, gamma, dmean, dvar, dgates, dshare,
    N, C, K, eps,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Gradients of log g_nk through the map, and of the shares in the modes, ``(N, KP)`` each."""
    kidx = tl.arange(0, KP)
    for t in range(tl.program_id(0), tl.cdiv(N, BN), tl.num_programs(0)):
        n = t * BN + tl.arange(0, BN)
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
                slope = tl.where(c < C, _slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA), 0.0)
                d = p - vector(mode_mean + k * C, c, C)[None, :]
                direct = tl.where(this, direct + tl.sum(slope[None, :] * (b + d * a), axis=1)[:, None], direct)
                if MOMENTS:
                    # Relative to the mode's mean: a constant more for all samples falls out of the softmax over them.
                    part = vector(dmean + k * C, c, C)[None, :] * d
                    part += vector(dvar + k * C, c, C)[None, :] * (d * d + w)
                    shared = tl.where(this, shared + tl.sum(part, axis=1)[:, None], shared)
        direct *= tl.exp(_log_gates(log_gates, n, N, K, KP))
        to = n[:, None] * KP + kidx[None, :]
        tl.store(dgates + to, direct, mask=(n < N)[:, None])
        tl.store(dshare + to, shared, mask=(n < N)[:, None])


@triton.jit
def _gradient_logits(
    mean, log_gates, share, dgates, dshare, dlogits, dweight, dbias,
    N, C, K,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates' logits, ``(N, KP)``, weight and bias."""
    kidx = tl.arange(0, KP)
    total = tl.zeros((KP,), tl.float32)
    if MOMENTS:
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            at = n[:, None] * KP + kidx[None, :]
            inside = (n < N)[:, None] & (kidx < K)[None, :]
            s = tl.load(share + at, mask=inside, other=0.0)
            total += tl.sum(s * tl.load(dshare + at, mask=inside, other=0.0), axis=0)
    for t in range(tl.program_id(0), tl.cdiv(C, BC), tl.num_programs(0)):
        c = t * BC + tl.arange(0, BC)
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
            if t == 0:
                tl.store(dlogits + at, d, mask=inside)
            of_bias += tl.sum(d, axis=0)
            p = tl.load(mean + n[:, None] * C + c[None, :], mask=(n < N)[:, None] & (c < C)[None, :], other=0.0)
            for k in range(0, K):
                part = tl.sum(column(d, k, KP)[:, None] * p, axis=0)
                of_weight = tl.where((kidx == k)[:, None], of_weight + part[None, :], of_weight)
        tl.store(dweight + kidx[:, None] * C + c[None, :], of_weight, mask=(kidx < K)[:, None] & (c < C)[None, :])
        tl.store(dbias + kidx, of_bias, mask=(kidx < K) & (t == 0))


@triton.jit
def _gradient_rows(
    x, dy, dx, mean, log_gates, share, dlogits, weight, mode_mean, mode_var, gamma, dmean, dvar,
    N, L, C, K, sn, sl, sc, eps,
    BM: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Dx = dy slope + dp / L + 2 dw (x - p) / L."""
    for t in range(tl.program_id(0), N * tl.cdiv(C, BC), tl.num_programs(0)):
        n, c = place(N * tl.cdiv(C, BC) - 1 - t, C, BC)  # what was read last is in the cache
        p = vector(mean + n * C, c, C)
        slope = tl.zeros((BC,), tl.float32)
        constant = tl.zeros((BC,), tl.float32)
        factor = tl.zeros((BC,), tl.float32)
        for k in range(0, K):
            slope += tl.exp(tl.load(log_gates + n * KP + k)) * _slope(mode_var, gamma, k, c, C, eps, HAS_GAMMA)
            constant += tl.load(dlogits + n * KP + k) * vector(weight + k * C, c, C)
            if MOMENTS:
                s = tl.load(share + n * KP + k)
                of_var = vector(dvar + k * C, c, C)
                d = p - vector(mode_mean + k * C, c, C)
                constant += s * (vector(dmean + k * C, c, C) + 2.0 * of_var * d)
                factor += 2.0 * s * of_var
        apply_gradient(x, dy, dx, n, c, slope, constant / L, factor / L, p, L, C, sn, sl, sc, BM, MOMENTS)


@triton.jit
def mode_norm_backward(
    x, dy, gate_weight, running_mean, running_var, gamma, kept, scratch, dx, dweight, dbias, dgamma, dbeta, arrived,
    eps, first, last, N, L, C, K, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, CS: tl.constexpr, BN: tl.constexpr, CN: tl.constexpr, KP: tl.constexpr,
    HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr, TRAINING: tl.constexpr,
):  # fmt: skip
    """Gradients. Those of parameters have the parameters' types; constants are as in :func:`mode_norm`.

    Steps: sums of dy over each sample's channels; gradients of the modes' moments, of the gates, of their logits; dx.
    """
    mean, within, log_gates, share, mode_mean, mode_var = _kept(kept, N, C, K, KP)
    if not TRAINING:
        mode_mean = running_mean
        mode_var = running_var
    plain = scratch
    centred = plain + N * C
    dmean = centred + N * C
    dvar = dmean + K * C
    dgates = dvar + K * C
    dshare = dgates + N * KP
    dlogits = dshare + N * KP
    if begins(0, first, last, arrived):
        gradient_pool(x, dy, mean, plain, centred, N, L, C, sn, sl, sc, BM, BC)
    if begins(1, first, last, arrived):
        _gradient_moments(
            plain, centred, mean, log_gates, mode_mean, mode_var, gamma, dgamma, dbeta, dmean, dvar,
            N, C, K, eps, BN, CN, KP, HAS_GAMMA, HAS_BETA,
        )  # fmt: skip
    if begins(2, first, last, arrived):
        _gradient_gates(
            plain, centred, mean, within, log_gates, mode_mean, mode_var, gamma, dmean, dvar, dgates, dshare,
            N, C, K, eps, 8, CS, KP, HAS_GAMMA, TRAINING,
        )  # fmt: skip
    if begins(3, first, last, arrived):
        _gradient_logits(mean, log_gates, share, dgates, dshare, dlogits, dweight, dbias, N, C, K, BN, CN, KP, TRAINING)
    if begins(4, first, last, arrived):
        _gradient_rows(
            x, dy, dx, mean, log_gates, share, dlogits, gate_weight, mode_mean, mode_var, gamma, dmean, dvar,
            N, L, C, K, sn, sl, sc, eps, BM, BC, KP, HAS_GAMMA, TRAINING,
        )  # fmt: skip
    ends(first, last, arrived)
