"""ModeNorm's loops over planes ``(P, L)``, each of one sample and channel; they do planes ``first`` to ``last``."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.gates import IN_CACHE, find_gates, maps_of_gates, steepness

Array = Any


@loop
def moments(x: Array, centred: bool, mean: Array, var: Array, first: int, last: int) -> None:
    """Mean and, if ``centred``, biased variance of each plane, whose second reading finds it in the cache."""
    number = x.dtype.type
    for p in range(first, last):
        plane = x[p]
        length, origin = number(len(plane)), plane[0]
        total = number(0)
        for i in range(len(plane)):
            total += plane[i] - origin
        center = origin + total / length
        mean[p] = center
        if centred:
            deviations, squares = number(0), number(0)
            for i in range(len(plane)):
                deviation = plane[i] - center
                deviations += deviation
                squares += deviation * deviation
            # What rounding left in the center is taken out again.
            shift = deviations / length
            mean[p] = center + shift
            var[p] = squares / length - shift * shift


@loop
def affine(x: Array, slope: Array, offset: Array, y: Array, first: int, last: int) -> None:
    """Y = x slope + offset."""
    for p in range(first, last):
        plane, out = x[p], y[p]
        a, b = slope[p], offset[p]
        for i in range(len(plane)):
            out[i] = plane[i] * a + b


@loop
def evaluate(
    x: Array,
    mean: Array,
    var: Array,
    gate_weight: Array,
    gate_bias: Array,
    weight: Array,
    bias: Array,
    eps: float,
    y: Array,
    first: int,
    last: int,
) -> None:
    """ModeNorm at inference, samples ``first`` to ``last``: some at a time, which stay in the cache."""
    modes, channels = mean.shape
    some = max(1, IN_CACHE // (channels * x.shape[1]))
    pooled, slope = np.empty((some, channels), x.dtype), np.empty((some, channels), x.dtype)
    offset, steep = np.empty((some, channels), x.dtype), steepness(var, weight, eps)
    gates, log_gates = np.empty((some, modes), x.dtype), np.empty((some, modes), x.dtype)
    for start in range(first, last, some):
        count = min(some, last - start)
        planes = x[start * channels : (start + count) * channels]
        out = y[start * channels : (start + count) * channels]
        moments(planes, False, pooled.reshape(-1), offset.reshape(-1), 0, len(planes))
        find_gates(pooled[:count], gate_weight, gate_bias, gates[:count], log_gates[:count])
        maps_of_gates(gates[:count], mean, steep, bias, slope[:count], offset[:count])
        affine(planes, slope.reshape(-1), offset.reshape(-1), out, 0, len(planes))


@loop
def gradient_sums(x: Array, dy: Array, center: Array, product: Array, total: Array, first: int, last: int) -> None:
    """Σ (x - center) dy and Σ dy of each plane."""
    number = x.dtype.type
    for p in range(first, last):
        plane, grad = x[p], dy[p]
        middle = center[p]
        a, b = number(0), number(0)
        for i in range(len(plane)):
            a += (plane[i] - middle) * grad[i]
            b += grad[i]
        product[p], total[p] = a, b


@loop
def gradient(
    x: Array,
    dy: Array,
    center: Array,
    slope: Array,
    d_within: Array,
    d_pooled: Array,
    dx: Array,
    first: int,
    last: int,
) -> None:
    """Dx = dy slope + (x - center) 2/L d_within + d_pooled/L.

    The variance depends on the mean only through the sum of deviations from it, which is zero.
    """
    number = x.dtype.type
    share = number(1) / number(x.shape[1])
    for p in range(first, last):
        plane, grad, out = x[p], dy[p], dx[p]
        a, b = slope[p], number(2) * share * d_within[p]
        c = share * d_pooled[p]
        middle = center[p]
        for i in range(len(plane)):
            out[i] = grad[i] * a + ((plane[i] - middle) * b + c)
