"""ModeGroupNorm as two Triton kernels, forward and backward: passes over the activation, and a step between them."""

import triton
import triton.language as tl

from mn_lightning.kernels.triton.pool_passes import apply, apply_gradient, gradient_pool, place, pool, vector
from mn_lightning.kernels.triton.steps import begins, ends


@triton.jit
def _kept(kept, N, C):
    """What the forward pass keeps.

    Mean and within, ``(N, C)``; slope and offset of each sample, ``(N, 2)``; and of its modes, ``(N, 4, KP)``: largest
    log gate, Σ_c exp of the others relative to it, mean and variance.
    """
    mean = kept
    within = mean + N * C
    of_samples = within + N * C
    return mean, within, of_samples, of_samples + 2 * N


@triton.jit
def _log_gates(p, weight, bias, c, C, K, KP: tl.constexpr):
    """Log softmax_k(w p_c + b), ``(BC, KP)``; -inf beyond C and K."""
    kidx = tl.arange(0, KP)
    z = p[:, None] * vector(weight, kidx, K)[None, :] + vector(bias, kidx, K)[None, :]
    z = tl.where((kidx < K)[None, :], z, -float("inf"))
    z -= tl.max(z, axis=1)[:, None]
    z -= tl.log(tl.sum(tl.exp(z), axis=1))[:, None]
    return tl.where((c < C)[:, None], z, -float("inf"))


@triton.jit
def _moments(
    mean, within, weight, bias, of_samples, stats, N, C, K, eps, BC: tl.constexpr, KP: tl.constexpr
):  # fmt: skip
    """Slope and offset of each sample from its modes' moments over channels and pixels."""
    kidx = tl.arange(0, KP)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        largest = tl.zeros((KP,), tl.float32) - float("inf")
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            z = _log_gates(vector(mean + n * C, c, C), weight, bias, c, C, K, KP)
            largest = tl.maximum(largest, tl.max(z, axis=0))
        largest = tl.where(kidx < K, largest, 0.0)
        total = tl.zeros((KP,), tl.float32)
        middle = tl.zeros((KP,), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            p = vector(mean + n * C, c, C)
            e = tl.exp(_log_gates(p, weight, bias, c, C, K, KP) - largest[None, :])
            total += tl.sum(e, axis=0)
            middle += tl.sum(e * p[:, None], axis=0)
        total = tl.where(kidx < K, total, 1.0)
        middle /= total
        around = tl.zeros((KP,), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            p = vector(mean + n * C, c, C)
            e = tl.exp(_log_gates(p, weight, bias, c, C, K, KP) - largest[None, :])
            d = p[:, None] - middle[None, :]
            around += tl.sum(e * (d * d + vector(within + n * C, c, C)[:, None]), axis=0)
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
def mode_group_norm(
    x, gate_weight, gate_bias, gamma, beta, kept, y, arrived,
    eps, first, last, N, L, C, K, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, CS: tl.constexpr, KP: tl.constexpr,
    HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
):  # fmt: skip
    """Y, and what the gradients need of the way there. Steps: moments of channels; of samples; y."""
    mean, within, of_samples, stats = _kept(kept, N, C)
    if begins(0, first, last, arrived):
        pool(x, mean, within, N, L, C, sn, sl, sc, BM, BC, True)
    if begins(1, first, last, arrived):
        _moments(mean, within, gate_weight, gate_bias, of_samples, stats, N, C, K, eps, CS, KP)
    if begins(2, first, last, arrived):
        for t in range(tl.program_id(0), N * tl.cdiv(C, BC), tl.num_programs(0)):
            n, c = place(N * tl.cdiv(C, BC) - 1 - t, C, BC)  # what was read last is in the cache
            slope = tl.load(of_samples + 2 * n) + tl.zeros((BC,), tl.float32)
            offset = tl.load(of_samples + 2 * n + 1) + tl.zeros((BC,), tl.float32)
            if HAS_GAMMA:
                g = vector(gamma, c, C)
                slope *= g
                offset *= g
            if HAS_BETA:
                offset += vector(beta, c, C)
            apply(x, y, n, c, slope, offset, L, C, sn, sl, sc, BM)
    ends(first, last, arrived)


@triton.jit
def _gradient_moments(
    plain, centred, mean, within, weight, bias, gamma, stats, constant, factor, dparameters,
    N, L, C, K, eps,
    BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr,
):  # fmt: skip
    """What dx has besides dy slope: constant + factor (x - p), ``(N, C)``; each sample's dw and db, ``(N, 2, KP)``."""
    kidx = tl.arange(0, KP)
    w_k = vector(weight, kidx, K)
    for n in range(tl.program_id(0), N, tl.num_programs(0)):
        at = stats + n * 4 * KP + kidx
        largest = tl.load(at)
        total = tl.load(at + KP)
        middle = tl.load(at + 2 * KP)
        inverse = tl.where(kidx < K, 1.0 / tl.sqrt(tl.load(at + 3 * KP) + eps), 0.0)
        of_offset = 0.0
        of_inverse = tl.zeros((KP,), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            a = vector(plain + n * C, c, C)
            b = vector(centred + n * C, c, C)
            if HAS_GAMMA:
                g = vector(gamma, c, C)
                a *= g
                b *= g
            d = vector(mean + n * C, c, C)[:, None] - middle[None, :]
            of_offset += tl.sum(a)
            of_inverse += tl.sum(b[:, None] + tl.where((c < C)[:, None], d, 0.0) * a[:, None], axis=0)
        dmean = -inverse * of_offset / K
        dvar = -0.5 * inverse * inverse * inverse * of_inverse / K
        mixed = tl.zeros((KP,), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            p = vector(mean + n * C, c, C)
            s = tl.exp(_log_gates(p, weight, bias, c, C, K, KP) - largest[None, :]) / total[None, :]
            d = p[:, None] - middle[None, :]
            shared = dmean[None, :] * d + dvar[None, :] * (d * d + vector(within + n * C, c, C)[:, None])
            mixed += tl.sum(s * shared, axis=0)
        of_weight = tl.zeros((KP,), tl.float32)
        of_bias = tl.zeros((KP,), tl.float32)
        for start in range(0, C, BC):
            c = start + tl.arange(0, BC)
            p = vector(mean + n * C, c, C)
            z = _log_gates(p, weight, bias, c, C, K, KP)
            s = tl.exp(z - largest[None, :]) / total[None, :]
            d = p[:, None] - middle[None, :]
            shared = dmean[None, :] * d + dvar[None, :] * (d * d + vector(within + n * C, c, C)[:, None])
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
def _gradient_parameters(
    plain, centred, mean, of_samples, dparameters, dgamma, dbeta, dweight, dbias,
    N, C, K,
    BN: tl.constexpr, BC: tl.constexpr, KP: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
):  # fmt: skip
    """Gradients of γ, β and of the gates' parameters."""
    kidx = tl.arange(0, KP)
    for t in range(tl.program_id(0), tl.cdiv(C, BC), tl.num_programs(0)):
        c = t * BC + tl.arange(0, BC)
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
        if HAS_GAMMA:
            tl.store(dgamma + c, of_gamma, mask=c < C)
        if HAS_BETA:
            tl.store(dbeta + c, of_beta, mask=c < C)
        here = (kidx < K) & (t == 0)
        tl.store(dweight + kidx, of_weight, mask=here)
        tl.store(dbias + kidx, of_bias, mask=here)


@triton.jit
def mode_group_norm_backward(
    x, dy, gate_weight, gate_bias, gamma, kept, scratch, dx, dweight, dbias, dgamma, dbeta, arrived,
    eps, first, last, N, L, C, K, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, CS: tl.constexpr, BN: tl.constexpr, CN: tl.constexpr, KP: tl.constexpr,
    HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
):  # fmt: skip
    """Gradients; those of parameters have the parameters' types.

    Steps: sums of dy over each sample's channels; gradients of the moments; dx, and the parameters' gradients.
    """
    mean, within, of_samples, stats = _kept(kept, N, C)
    plain = scratch
    centred = plain + N * C
    constant = centred + N * C
    factor = constant + N * C
    dparameters = factor + N * C
    if begins(0, first, last, arrived):
        gradient_pool(x, dy, mean, plain, centred, N, L, C, sn, sl, sc, BM, BC)
    if begins(1, first, last, arrived):
        _gradient_moments(
            plain, centred, mean, within, gate_weight, gate_bias, gamma, stats, constant, factor, dparameters,
            N, L, C, K, eps, CS, KP, HAS_GAMMA,
        )  # fmt: skip
    if begins(2, first, last, arrived):
        _gradient_parameters(
            plain, centred, mean, of_samples, dparameters, dgamma, dbeta, dweight, dbias,
            N, C, K, BN, CN, KP, HAS_GAMMA, HAS_BETA,
        )  # fmt: skip
        for t in range(tl.program_id(0), N * tl.cdiv(C, BC), tl.num_programs(0)):
            n, c = place(N * tl.cdiv(C, BC) - 1 - t, C, BC)  # what was read last is in the cache
            slope = tl.load(of_samples + 2 * n) + tl.zeros((BC,), tl.float32)
            if HAS_GAMMA:
                slope *= vector(gamma, c, C)
            added, times = vector(constant + n * C, c, C), vector(factor + n * C, c, C)
            middle = vector(mean + n * C, c, C)
            apply_gradient(x, dy, dx, n, c, slope, added, times, middle, L, C, sn, sl, sc, BM, True)
    ends(first, last, arrived)
