"""The loops for mixtures over rows ``(M, D)``; a block is some rows."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.mixture import GIVEN, NEAREST, activated, one_hot, softmax, through

Array = Any


@loop
def _values(x: Array, constant: Array, mean: Array, precision: Array, values: Array, start: int, stop: int) -> None:
    """Find constant_k + Σ_d precision_kd (x_d - mean_kd)² for the rows from ``start`` to ``stop``."""
    number = x.dtype.type
    features = x.shape[1]
    whole = (stop - start) // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = x[start + i], x[start + i + 1], x[start + i + 2], x[start + i + 3]
        for k in range(len(values)):
            middle, p = mean[k], precision[k]
            s0, s1, s2, s3 = number(0), number(0), number(0), number(0)
            for j in range(features):
                e, f, g, h = a[j] - middle[j], b[j] - middle[j], c[j] - middle[j], d[j] - middle[j]
                s0 += e * e * p[j]
                s1 += f * f * p[j]
                s2 += g * g * p[j]
                s3 += h * h * p[j]
            out = values[k]
            out[i], out[i + 1] = constant[k] + s0, constant[k] + s1
            out[i + 2], out[i + 3] = constant[k] + s2, constant[k] + s3
    for i in range(whole, stop - start):
        a = x[start + i]
        for k in range(len(values)):
            middle, p = mean[k], precision[k]
            s0 = number(0)
            for j in range(features):
                e = a[j] - middle[j]
                s0 += e * e * p[j]
            values[k, i] = constant[k] + s0


@loop
def sums(
    x: Array,
    kind: int,
    constant: Array,
    mean: Array,
    precision: Array,
    center: Array,
    nu: Array,
    keep: bool,
    counts: Array,
    sums: Array,
    cuts: Array,
    first: int,
    last: int,
) -> None:
    """See the loop over planes."""
    number = x.dtype.type
    length = nu.shape[2]
    features = x.shape[1]
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    scratch = np.empty((len(mean), length), x.dtype)
    block_sums = np.empty((2, len(mean), features), x.dtype)
    for cut in range(first, last):
        counts[cut] = 0.0
        sums[cut] = 0.0
        for block in range(cuts[cut], cuts[cut + 1]):
            start = block * length
            stop = min(start + length, len(x))
            values = nu[block] if keep else scratch
            if kind != GIVEN:
                _values(x, constant, mean, precision, values, start, stop)
                if kind == NEAREST:
                    one_hot(values, stop - start, largest, total)
                else:
                    softmax(values, constant, stop - start, largest, total)
            block_sums[:] = number(0)
            whole = (stop - start) // 4 * 4
            for i in range(0, whole, 4):
                a, b, c, d = x[start + i], x[start + i + 1], x[start + i + 2], x[start + i + 3]
                for k in range(len(mean)):
                    w0, w1, w2, w3 = values[k, i], values[k, i + 1], values[k, i + 2], values[k, i + 3]
                    middle, once, twice = center[k], block_sums[0, k], block_sums[1, k]
                    for j in range(features):
                        e, f, g, h = a[j] - middle[j], b[j] - middle[j], c[j] - middle[j], d[j] - middle[j]
                        once[j] += (w0 * e + w1 * f) + (w2 * g + w3 * h)
                        twice[j] += (w0 * e * e + w1 * f * f) + (w2 * g * g + w3 * h * h)
            for i in range(whole, stop - start):
                a = x[start + i]
                for k in range(len(mean)):
                    w0, middle, once, twice = values[k, i], center[k], block_sums[0, k], block_sums[1, k]
                    for j in range(features):
                        e = a[j] - middle[j]
                        once[j] += w0 * e
                        twice[j] += w0 * e * e
            for k in range(len(mean)):
                count = number(0)
                for i in range(stop - start):
                    count += values[k, i]
                counts[cut, k] += count
                for j in range(features):
                    sums[cut, 0, k, j] += block_sums[0, k, j]
                    sums[cut, 1, k, j] += block_sums[1, k, j]


@loop
def _mix(
    x: Array,
    components: Any,
    nu: Array,
    center: Array,
    slope: Array,
    level: Array,
    factor: Array,
    leak: Any,
    y: Array,
    start: int,
    stop: int,
) -> None:
    number = x.dtype.type
    for i in range(start, stop):
        row, out = x[i], y[i]
        for j in range(len(row)):
            total = number(0)
            for k in range(len(components)):
                value = activated((row[j] - center[k, j]) * slope[k, j] + level[k, j], leak)
                total += nu[k, i - start] * factor[k] * value
            out[j] = total


@loop
def normalize(
    x: Array,
    components: Any,
    nu: Array,
    center: Array,
    slope: Array,
    level: Array,
    factor: Array,
    leak: Any,
    y: Array,
    first: int,
    last: int,
) -> None:
    """See the loop over planes."""
    length = nu.shape[2]
    for block in range(first, last):
        start = block * length
        stop = min(start + length, len(x))
        _mix(x, components, nu[block], center, slope, level, factor, leak, y, start, stop)


@loop
def evaluate(
    x: Array,
    components: Any,
    constant: Array,
    mean: Array,
    precision: Array,
    slope: Array,
    level: Array,
    factor: Array,
    leak: Any,
    y: Array,
    length: int,
    first: int,
    last: int,
) -> None:
    """See the loop over planes."""
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    nu = np.empty((len(mean), length), x.dtype)
    for block in range(first, last):
        start = block * length
        stop = min(start + length, len(x))
        _values(x, constant, mean, precision, nu, start, stop)
        softmax(nu, constant, stop - start, largest, total)
        _mix(x, components, nu, mean, slope, level, factor, leak, y, start, stop)


@loop
def gradient_sums(
    x: Array,
    dy: Array,
    nu: Array,
    center: Array,
    slope: Array,
    level: Array,
    factor: Array,
    leak: Any,
    sums: Array,
    cuts: Array,
    first: int,
    last: int,
) -> None:
    """See the loop over planes."""
    number = x.dtype.type
    length = nu.shape[2]
    features = x.shape[1]
    block_sums = np.empty((2, len(center), features), x.dtype)
    for cut in range(first, last):
        sums[cut] = 0.0
        for block in range(cuts[cut], cuts[cut + 1]):
            start = block * length
            stop = min(start + length, len(x))
            block_sums[:] = number(0)
            whole = (stop - start) // 2 * 2
            for i in range(0, whole, 2):
                a, b, e, f = x[start + i], x[start + i + 1], dy[start + i], dy[start + i + 1]
                for k in range(len(center)):
                    w0, w1 = nu[block, k, i], nu[block, k, i + 1]
                    once, twice = block_sums[0, k], block_sums[1, k]
                    middle, steep, high = center[k], slope[k], level[k]
                    for j in range(features):
                        u, v = a[j] - middle[j], b[j] - middle[j]
                        g = w0 * through(u * steep[j] + high[j], e[j], leak)
                        h = w1 * through(v * steep[j] + high[j], f[j], leak)
                        once[j] += g * u + h * v
                        twice[j] += g + h
            for i in range(whole, stop - start):
                a, e = x[start + i], dy[start + i]
                for k in range(len(center)):
                    w0, once, twice = nu[block, k, i], block_sums[0, k], block_sums[1, k]
                    middle, steep, high = center[k], slope[k], level[k]
                    for j in range(features):
                        u = a[j] - middle[j]
                        g = w0 * through(u * steep[j] + high[j], e[j], leak)
                        once[j] += g * u
                        twice[j] += g
            for k in range(len(center)):
                for j in range(features):
                    sums[cut, 0, k, j] += block_sums[0, k, j] * factor[k]
                    sums[cut, 1, k, j] += block_sums[1, k, j] * factor[k]


@loop
def gradient(
    x: Array,
    components: Any,
    dy: Array,
    nu: Array,
    center: Array,
    slope: Array,
    level: Array,
    factor: Array,
    leak: Any,
    by_x: Array,
    constant: Array,
    dx: Array,
    first: int,
    last: int,
) -> None:
    """See the loop over planes."""
    number = x.dtype.type
    length = nu.shape[2]
    for block in range(first, last):
        start = block * length
        stop = min(start + length, len(x))
        weight = nu[block]
        for i in range(start, stop):
            row, grad, out = x[i], dy[i], dx[i]
            for j in range(len(row)):
                total = number(0)
                for k in range(len(components)):
                    z = row[j] - center[k, j]
                    steep = through(z * slope[k, j] + level[k, j], grad[j], leak) * (slope[k, j] * factor[k])
                    total += weight[k, i - start] * (steep + (z * by_x[k, j] + constant[k, j]))
                out[j] = total
