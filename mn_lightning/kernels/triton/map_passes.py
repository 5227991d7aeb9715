"""The maps of a mixture's components, and the passes that apply them, forward and backward, as parts of kernels."""

import triton
import triton.language as tl

from mn_lightning.kernels.triton.mixture_passes import add, load, place, posteriors_at
from mn_lightning.kernels.triton.pool_passes import column, vector


@triton.jit
def _act(pre, slope, ACT: tl.constexpr):
    if ACT:
        pre = tl.where(pre > 0, pre, pre * slope)
    return pre


@triton.jit
def _through(dy, pre, slope, ACT: tl.constexpr):
    """Gradient of what goes into the activation."""
    if ACT:
        dy = tl.where(pre > 0, dy, dy * slope)
    return dy


@triton.jit
def component(weights, means, variances, gamma, beta, k, c, C, eps,
              HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr, INSIDE: tl.constexpr, SQRT: tl.constexpr):  # fmt: skip
    """Factor 1/√λ_k, centre and slope of component k's map; INSIDE: Eq. 37, γ and β belong to the mixture."""
    inside = c < C
    centre = tl.load(means + k * C + c, mask=inside, other=0.0)
    var = tl.load(variances + k * C + c, mask=inside, other=1.0)
    if INSIDE:
        if HAS_BETA:
            centre += vector(beta, c, C)
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
def added_after(beta, c, C, BC: tl.constexpr, HAS_BETA: tl.constexpr, INSIDE: tl.constexpr):
    """β where it comes after the normalization, 0 elsewhere."""
    added = tl.zeros((BC,), tl.float32)
    if HAS_BETA and not INSIDE:
        added += vector(beta, c, C)
    return added


@triton.jit
def apply(
    x, nu, weights, means, variances, gamma, beta, y,
    B, L, C, K, sb, sl, sc, tiles, eps, leak,
    BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Y = Σ_k ν_k / √λ_k act(slope_k (x - centre_k) + β), with ν as given."""
    slices = tl.cdiv(C, BC)
    for i in range(tl.program_id(0), B * tiles * slices, tl.num_programs(0)):
        unit = B * tiles * slices - 1 - i  # what was read last is in the cache
        block, row, there = place(unit // slices, tiles, L, BM)
        c = (unit % slices) * BC + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        tile = load(x, block, row, c, inside, sb, sl, sc)
        added = added_after(beta, c, C, BC, HAS_BETA, INSIDE)
        at, apart = posteriors_at(nu, block, row, B, L)
        total = tl.zeros((BM, BC), tl.float32)
        for k in range(0, K):
            part = tl.load(at + k * apart, mask=there, other=0.0)
            factor, centre, slope = component(
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
def apply_share(
    x, share, block, row, there, weights, means, variances, gamma, beta, y,
    C, K, sb, sl, sc, eps, leak,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """:func:`apply` for all features of one tile of rows, whose posteriors are ``share (BM, KP)``."""
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        tile = load(x, block, row, c, inside, sb, sl, sc)
        added = added_after(beta, c, C, BC, HAS_BETA, INSIDE)
        total = tl.zeros((BM, BC), tl.float32)
        for k in range(0, K):
            factor, centre, slope = component(
                weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
            )
            pre = (tile - centre[None, :]) * slope[None, :]
            if ACT:
                pre = _act(pre + added[None, :], leak, ACT)
            total += (column(share, k, KP) * factor)[:, None] * pre
        if not ACT:
            total += added[None, :]
        tl.store(y + block * sb + row[:, None] * sl + c[None, :] * sc, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def gradient_sums(
    x, dy, nu, weights, means, variances, gamma, beta, scratch,
    B, L, C, K, sb, sl, sc, tiles, R, eps, leak,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Σ ν g and Σ ν g (x - mean) of each part's rows, with g the gradient of what component k's map makes."""
    kidx = tl.arange(0, KP)
    for unit in range(tl.program_id(0), R * tl.cdiv(C, BC), tl.num_programs(0)):
        number = unit % R
        c = (unit // R) * BC + tl.arange(0, BC)
        added = added_after(beta, c, C, BC, HAS_BETA, INSIDE)
        one = tl.zeros((KP, BC), tl.float32)
        two = tl.zeros((KP, BC), tl.float32)
        for t in range(number, B * tiles, R):
            block, row, there = place(t, tiles, L, BM)
            inside = there[:, None] & (c < C)[None, :]
            tile = load(x, block, row, c, inside, sb, sl, sc)
            grad = load(dy, block, row, c, inside, sb, sl, sc)
            at, apart = posteriors_at(nu, block, row, B, L)
            for k in range(0, K):
                part = tl.load(at + k * apart, mask=there, other=0.0)
                g = grad
                if ACT:
                    _, centre, slope = component(
                        weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
                    )
                    g = _through(g, (tile - centre[None, :]) * slope[None, :] + added[None, :], leak, ACT)
                weighted = part[:, None] * g
                mean = vector(means + k * C, c, C)
                this = (kidx == k)[:, None]
                one = tl.where(this, one + tl.sum(weighted, axis=0)[None, :], one)
                two = tl.where(this, two + tl.sum(weighted * (tile - mean[None, :]), axis=0)[None, :], two)
        here = scratch + number * K * C + kidx[:, None] * C + c[None, :]
        inside_sums = (kidx < K)[:, None] & (c < C)[None, :]
        tl.store(here, one, mask=inside_sums)
        tl.store(here + R * K * C, two, mask=inside_sums)


@triton.jit
def gradient_sums_at_once(
    x, dy, nu, means, scratch,
    B, L, C, K, sb, sl, sc, tiles, R,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """:func:`gradient_sums` without an activation, for few components and features: all of them in registers."""
    kidx = tl.arange(0, KP)
    c = tl.arange(0, BC)
    inside_sums = (kidx < K)[:, None] & (c < C)[None, :]
    at_mean = means + kidx[:, None] * C + c[None, :]
    mean = tl.load(at_mean, mask=inside_sums, other=0.0)
    for number in range(tl.program_id(0), R, tl.num_programs(0)):
        one = tl.zeros((KP, BM, BC), tl.float32)
        two = tl.zeros((KP, BM, BC), tl.float32)
        for t in range(number, B * tiles, R):
            block, row, there = place(t, tiles, L, BM)
            inside = there[:, None] & (c < C)[None, :]
            tile = load(x, block, row, c, inside, sb, sl, sc)
            grad = load(dy, block, row, c, inside, sb, sl, sc)
            at, apart = posteriors_at(nu, block, row, B, L)
            share = tl.load(at[None, :] + kidx[:, None] * apart, mask=there[None, :] & (kidx < K)[:, None], other=0.0)
            weighted = share[:, :, None] * grad[None, :, :]
            one += weighted
            two += weighted * (tile[None, :, :] - mean[:, None, :])
        here = scratch + number * K * C + kidx[:, None] * C + c[None, :]
        tl.store(here, tl.sum(one, axis=1), mask=inside_sums)
        tl.store(here + R * K * C, tl.sum(two, axis=1), mask=inside_sums)


@triton.jit
def gradient_maps(
    scratch, weights, means, variances, gamma, beta, dgamma, dbeta, dmoments,
    R, C, K, rows, eps,
    BP: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Gradients of γ and β; and of each mean and variance, divided by the rows of the component, ``(2, K, C)``."""
    for unit in range(tl.program_id(0), tl.cdiv(C, BC), tl.num_programs(0)):
        c = unit * BC + tl.arange(0, BC)
        inside = c < C
        one_gamma = tl.zeros((BC,), tl.float32)
        one_beta = tl.zeros((BC,), tl.float32)
        g = tl.full((BC,), 1.0, tl.float32)
        b = tl.zeros((BC,), tl.float32)
        if HAS_GAMMA:
            g = tl.load(gamma + c, mask=inside, other=1.0).to(tl.float32)
        if HAS_BETA and INSIDE:
            b = vector(beta, c, C)
        for k in range(0, K):
            s = add(scratch + k * C, R, K * C, c, inside, BP, BC)
            q = add(scratch + (R * K + k) * C, R, K * C, c, inside, BP, BC)
            factor, _, slope = component(
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
        if HAS_GAMMA:
            tl.store(dgamma + c, one_gamma, mask=inside)
        if HAS_BETA:
            tl.store(dbeta + c, one_beta, mask=inside)


@triton.jit
def gradient_rows(
    x, dy, nu, weights, means, variances, gamma, beta, dmoments, dx,
    B, L, C, K, sb, sl, sc, tiles, eps, leak,
    BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Dx = Σ_k ν_k (slope_k g / √λ_k + dμ_k + 2 dσ²_k (x - μ_k)); the moments' part only where they are of x."""
    slices = tl.cdiv(C, BC)
    for i in range(tl.program_id(0), B * tiles * slices, tl.num_programs(0)):
        unit = B * tiles * slices - 1 - i  # what was read last is in the cache
        block, row, there = place(unit // slices, tiles, L, BM)
        c = (unit % slices) * BC + tl.arange(0, BC)
        inside = there[:, None] & (c < C)[None, :]
        grad = load(dy, block, row, c, inside, sb, sl, sc)
        total = tl.zeros((BM, BC), tl.float32)
        tile = total
        if ACT or MOMENTS:
            tile = load(x, block, row, c, inside, sb, sl, sc)
        added = added_after(beta, c, C, BC, HAS_BETA, INSIDE)
        at, apart = posteriors_at(nu, block, row, B, L)
        for k in range(0, K):
            part = tl.load(at + k * apart, mask=there, other=0.0)
            factor, centre, slope = component(
                weights, means, variances, gamma, beta, k, c, C, eps, HAS_GAMMA, HAS_BETA, INSIDE, SQRT
            )
            g = grad
            if ACT:
                g = _through(g, (tile - centre[None, :]) * slope[None, :] + added[None, :], leak, ACT)
            g = g * (slope * factor)[None, :]
            if MOMENTS:
                dmean, dvar = vector(dmoments + k * C, c, C), vector(dmoments + (K + k) * C, c, C)
                g += dmean[None, :] + 2.0 * dvar[None, :] * (tile - vector(means + k * C, c, C)[None, :])
            total += part[:, None] * g
        tl.store(dx + block * sb + row[:, None] * sl + c[None, :] * sc, total.to(dx.dtype.element_ty), mask=inside)
