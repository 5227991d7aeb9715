"""What ModeNorm and ModeGroupNorm read of an activation and write of one: passes over tiles, as parts of kernels.

A tile is BM pixels and BC channels of one sample. Moments p (mean) and w (biased variance) of a sample's channel,
``(N, C)``, are all that the norms' formulas need of it; what comes out is one affine map for each sample and channel.
"""

import triton
import triton.language as tl


@triton.jit
def load(x, n, pixel, c, inside, sn, sl, sc):
    """A tile of ``x`` in float32, 0 where there is nothing."""
    at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
    return tl.load(x + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store(y, tile, n, pixel, c, inside, sn, sl, sc):
    """Write a tile of ``y`` in its own type."""
    at = n.to(tl.int64) * sn + pixel[:, None] * sl + c[None, :] * sc
    tl.store(y + at, tile.to(y.dtype.element_ty), mask=inside)


@triton.jit
def vector(values, c, C):
    """Parameters of some channels, in float32, 0 beyond C."""
    return tl.load(values + c, mask=c < C, other=0.0).to(tl.float32)


@triton.jit
def column(values, k, KP: tl.constexpr):
    """Column k of ``(*, KP)``."""
    return tl.sum(tl.where((tl.arange(0, KP) == k)[None, :], values, 0.0), axis=1)


@triton.jit
def place(t, C, BC: tl.constexpr):
    """Sample and channels of number ``t`` of the samples' slices of BC channels."""
    slices = tl.cdiv(C, BC)
    return t // slices, (t % slices) * BC + tl.arange(0, BC)


@triton.jit
def pool(
    x, mean, within,
    N, L, C, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr, CENTRED: tl.constexpr,
):  # fmt: skip
    """Mean and, CENTRED, biased variance of each sample's channels."""
    for t in range(tl.program_id(0), N * tl.cdiv(C, BC), tl.num_programs(0)):
        n, c = place(t, C, BC)
        middle = tl.zeros((BC,), tl.float32)
        around = tl.zeros((BC,), tl.float32)
        for start in range(0, L, BM):
            pixel = start + tl.arange(0, BM)
            inside = (pixel < L)[:, None] & (c < C)[None, :]
            tile = load(x, n, pixel, c, inside, sn, sl, sc)
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
def gradient_pool(
    x, dy, mean, plain, centred,
    N, L, C, sn, sl, sc,
    BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Σ dy and Σ dy (x - p) of each sample's channels."""
    for t in range(tl.program_id(0), N * tl.cdiv(C, BC), tl.num_programs(0)):
        n, c = place(t, C, BC)
        middle = vector(mean + n * C, c, C)
        one = tl.zeros((BC,), tl.float32)
        two = tl.zeros((BC,), tl.float32)
        for start in range(0, L, BM):
            pixel = start + tl.arange(0, BM)
            inside = (pixel < L)[:, None] & (c < C)[None, :]
            grad = load(dy, n, pixel, c, inside, sn, sl, sc)
            one += tl.sum(grad, axis=0)
            two += tl.sum(grad * (load(x, n, pixel, c, inside, sn, sl, sc) - middle[None, :]), axis=0)
        tl.store(plain + n * C + c, one, mask=c < C)
        tl.store(centred + n * C + c, two, mask=c < C)


@triton.jit
def apply(x, y, n, c, slope, offset, L, C, sn, sl, sc, BM: tl.constexpr):
    """Y = x slope + offset, for a slice of a sample's channels."""
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = load(x, n, pixel, c, inside, sn, sl, sc) * slope[None, :] + offset[None, :]
        store(y, tile, n, pixel, c, inside, sn, sl, sc)


@triton.jit
def apply_gradient(
    x, dy, dx, n, c, slope, constant, factor, middle,
    L, C, sn, sl, sc,
    BM: tl.constexpr, THROUGH_X: tl.constexpr,
):  # fmt: skip
    """Dx = dy slope + constant and, THROUGH_X, factor (x - middle), for a slice of a sample's channels."""
    for start in range(0, L, BM):
        pixel = start + tl.arange(0, BM)
        inside = (pixel < L)[:, None] & (c < C)[None, :]
        tile = load(dy, n, pixel, c, inside, sn, sl, sc) * slope[None, :] + constant[None, :]
        if THROUGH_X:
            tile += factor[None, :] * (load(x, n, pixel, c, inside, sn, sl, sc) - middle[None, :])
        store(dx, tile, n, pixel, c, inside, sn, sl, sc)
