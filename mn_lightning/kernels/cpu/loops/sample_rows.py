"""ModeNorm's loops over rows ``(N, L, C)``; they do samples ``first`` to ``last``."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.common import clear
from mn_lightning.kernels.cpu.loops.gates import IN_CACHE, find_gates, maps_of_gates, steepness

Array = Any


@loop
def moments(x: Array, centred: bool, mean: Array, var: Array, first: int, last: int) -> None:
    """Mean and, if ``centred``, biased variance of each sample's channels."""
    number = x.dtype.type
    length = number(x.shape[1])
    channels = x.shape[2]
    whole = x.shape[1] // 4 * 4
    shift = np.empty(channels, x.dtype)
    for n in range(first, last):
        center, squares, origin = mean[n], var[n], x[n, 0]
        clear(center)
        for i in range(0, whole, 4):
            a, b, c, d = x[n, i], x[n, i + 1], x[n, i + 2], x[n, i + 3]
            for j in range(channels):
                center[j] += ((a[j] - origin[j]) + (b[j] - origin[j])) + ((c[j] - origin[j]) + (d[j] - origin[j]))
        for i in range(whole, x.shape[1]):
            a = x[n, i]
            for j in range(channels):
                center[j] += a[j] - origin[j]
        for j in range(channels):
            center[j] = origin[j] + center[j] / length
        if not centred:
            continue
        clear(shift)
        clear(squares)
        for i in range(0, whole, 4):
            a, b, c, d = x[n, i], x[n, i + 1], x[n, i + 2], x[n, i + 3]
            for j in range(channels):
                e, f, g, h = a[j] - center[j], b[j] - center[j], c[j] - center[j], d[j] - center[j]
                shift[j] += (e + f) + (g + h)
                squares[j] += (e * e + f * f) + (g * g + h * h)
        for i in range(whole, x.shape[1]):
            a = x[n, i]
            for j in range(channels):
                e = a[j] - center[j]
                shift[j] += e
                squares[j] += e * e
        for j in range(channels):
            # What rounding left in the center is taken out again.
            off = shift[j] / length
            center[j] += off
            squares[j] = squares[j] / length - off * off


@loop
def affine(x: Array, slope: Array, offset: Array, y: Array, first: int, last: int) -> None:
    """Y = x slope + offset."""
    for n in range(first, last):
        a, b = slope[n], offset[n]
        for i in range(x.shape[1]):
            row, out = x[n, i], y[n, i]
            for j in range(len(row)):
                out[j] = row[j] * a[j] + b[j]


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
    """See the loop over planes."""
    modes, channels = mean.shape
    some = max(1, IN_CACHE // (channels * x.shape[1]))
    pooled, slope = np.empty((some, channels), x.dtype), np.empty((some, channels), x.dtype)
    offset, steep = np.empty((some, channels), x.dtype), steepness(var, weight, eps)
    gates, log_gates = np.empty((some, modes), x.dtype), np.empty((some, modes), x.dtype)
    for start in range(first, last, some):
        count = min(some, last - start)
        rows, out = x[start : start + count], y[start : start + count]
        if x.shape[1] == 1:  # a single row is its own mean
            own = rows.reshape(count, channels)
        else:
            moments(rows, False, pooled, offset, 0, count)
            own = pooled[:count]
        find_gates(own, gate_weight, gate_bias, gates[:count], log_gates[:count])
        maps_of_gates(gates[:count], mean, steep, bias, slope[:count], offset[:count])
        affine(rows, slope, offset, out, 0, count)


@loop
def gradient_sums(x: Array, dy: Array, center: Array, product: Array, total: Array, first: int, last: int) -> None:
    """Σ (x - center) dy and Σ dy of each sample's channels."""
    for n in range(first, last):
        middle, products, totals = center[n], product[n], total[n]
        clear(products)
        clear(totals)
        # Row by row: with two rows of both arrays at once, what comes from memory takes up to twice as long.
        for i in range(x.shape[1]):
            row, grad = x[n, i], dy[n, i]
            for j in range(len(row)):
                products[j] += (row[j] - middle[j]) * grad[j]
                totals[j] += grad[j]


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
    """See the loop over planes."""
    number = x.dtype.type
    share = number(1) / number(x.shape[1])
    by_x, shift = np.empty(x.shape[2], x.dtype), np.empty(x.shape[2], x.dtype)
    for n in range(first, last):
        a = slope[n]
        for j in range(len(shift)):
            by_x[j] = number(2) * share * d_within[n, j]
            shift[j] = share * d_pooled[n, j] - center[n, j] * by_x[j]
        for i in range(x.shape[1]):
            row, grad, out = x[n, i], dy[n, i], dx[n, i]
            for j in range(len(row)):
                out[j] = grad[j] * a[j] + (row[j] * by_x[j] + shift[j])
