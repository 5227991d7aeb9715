"""The loops behind the mixture fit and MixtureNorm: a mixture of K Gaussians with D features.

The rows are read in blocks that stay in the cache while their posteriors are found and used. Each loop has two forms:
``planes`` are ``(N, D, L)``, the L numbers of a sample's channel side by side, and a block is some pixels of one sample;
``rows`` are ``(M, D)``, a row's features side by side, and a block is some rows. Posteriors ν have one place for each
block, ``(blocks, K, length)``, of which the last may be longer than the block.

``components`` is a tuple of length K and nothing else: its length is known to the compiler, which then writes out the
innermost loops over k. ``leak`` is None without an activation inside the sum over k, and else what a negative number is
multiplied with: 0 for ReLU.

Sums are taken around a ``center`` (K, D) near each component's mean, in numbers of x's type within a block, and added
up in float64.
"""

import math
from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import formula, loop

Array = Any

GIVEN, NEAREST, POSTERIOR = 0, 1, 2
"""Where the weights of :func:`sums_of_planes` come from."""


@formula
def exponential(x: np.float32) -> np.float32:
    """Return e^x for x <= 0 within 1e-7 of its value, in operations that are done for several numbers at once."""
    x = x if x > np.float32(-87) else np.float32(-87)
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)  # x - n ln 2, ln 2 in two parts
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (p * r * r + r + np.float32(1)) * power


@formula
def densities(weights: Array, means: Array, variances: Array, reg_covar: float, constant: Array, precision: Array) -> None:
    """log λ_k p_k(x) = constant_k + Σ_d precision_kd (x_d - μ_kd)² (Eqs. 26-27); a weight of 0 makes it -inf."""
    for k in range(len(weights)):
        total = math.log(weights[k]) if weights[k] > 0 else -np.inf
        for d in range(means.shape[1]):
            variance = np.float64(variances[k, d]) + reg_covar
            precision[k, d] = -0.5 / variance
            total -= 0.5 * math.log(2 * math.pi * variance)
        constant[k] = total


@loop
def _softmax(values: Array, constant: Array, length: int, largest: Array, total: Array) -> None:
    """Make posteriors (Eq. 31) of log λ_k p_k; exactly 0 where the constant is -inf."""
    number = values.dtype.type
    lowest = number(-1e37)  # for rows that are infinitely far from all components, or not a number
    for i in range(length):
        largest[i] = lowest
        total[i] = number(0)
    for k in range(len(values)):
        if constant[k] != -np.inf:
            row = values[k]
            for i in range(length):
                largest[i] = row[i] if row[i] > largest[i] else largest[i]
    for k in range(len(values)):
        row = values[k]
        if constant[k] == -np.inf:
            row[:] = number(0)
        elif values.itemsize == 4:
            for i in range(length):
                value = row[i] if row[i] > lowest else lowest
                row[i] = exponential(np.float32(value - largest[i]))
                total[i] += row[i]
        else:
            for i in range(length):
                value = row[i] if row[i] > lowest else lowest
                row[i] = math.exp(value - largest[i])
                total[i] += row[i]
    for i in range(length):
        total[i] = number(1) / total[i]
    for k in range(len(values)):
        row = values[k]
        for i in range(length):
            row[i] *= total[i]


@loop
def _one_hot(values: Array, length: int, largest: Array, nearest: Array) -> None:
    """Make 1 of the largest of the K values, the first of several, and 0 of the others."""
    number = values.dtype.type
    for i in range(length):
        largest[i] = values[0, i]
        nearest[i] = number(0)
    for k in range(1, len(values)):
        row = values[k]
        for i in range(length):
            nearest[i] = number(k) if row[i] > largest[i] else nearest[i]
            largest[i] = row[i] if row[i] > largest[i] else largest[i]
    for k in range(len(values)):
        row = values[k]
        for i in range(length):
            row[i] = number(1) if nearest[i] == number(k) else number(0)


@loop
def _activated(value: Array, leak: Any) -> Array:
    if leak is None:
        return value
    return value if not value <= 0 else (value * leak if leak != 0 else value - value)


@loop
def _through(value: Array, grad: Array, leak: Any) -> Array:
    """Gradient of what went into the activation."""
    if leak is None:
        return grad
    return grad if value > 0 else grad * leak


# --- planes -------------------------------------------------------------------------------------------------------


@loop
def _values_of_planes(
    x: Array, constant: Array, mean: Array, precision: Array, values: Array, n: int, start: int, stop: int
) -> None:
    """Find constant_k + Σ_d precision_kd (x_d - mean_kd)² for the pixels of sample ``n`` from ``start`` to ``stop``."""
    features = x.shape[1]
    whole = features // 4 * 4
    for k in range(len(values)):
        out = values[k]
        for i in range(stop - start):
            out[i] = constant[k]
        for j in range(0, whole, 4):
            a, b = x[n, j][start:stop], x[n, j + 1][start:stop]
            c, d = x[n, j + 2][start:stop], x[n, j + 3][start:stop]
            m0, m1, m2, m3 = mean[k, j], mean[k, j + 1], mean[k, j + 2], mean[k, j + 3]
            p0, p1, p2, p3 = precision[k, j], precision[k, j + 1], precision[k, j + 2], precision[k, j + 3]
            for i in range(stop - start):
                e, f, g, h = a[i] - m0, b[i] - m1, c[i] - m2, d[i] - m3
                out[i] += (e * e * p0 + f * f * p1) + (g * g * p2 + h * h * p3)
        for j in range(whole, features):
            a, m0, p0 = x[n, j][start:stop], mean[k, j], precision[k, j]
            for i in range(stop - start):
                e = a[i] - m0
                out[i] += e * e * p0


@loop
def sums_of_planes(
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
    """Read the rows once: find what each component has of them, and for each cut Σν, Σν(x - center), Σν(x - center)².

    Args:
        x: the planes.
        kind: GIVEN takes ν as it is; NEAREST finds the largest, and POSTERIOR the softmax, of
            constant_k + Σ_d precision_kd (x_d - mean_kd)².
        constant: ``(K,)``.
        mean: ``(K, D)``.
        precision: ``(K, D)``.
        center: ``(K, D)``.
        nu: ν, found or given; has but one place where it is not kept.
        keep: whether ν is kept.
        counts: result, ``(cuts, K)``.
        sums: result, ``(cuts, 2, K, D)``.
        cuts: at which block each cut starts.
        first: cut to start with.
        last: cut to end before.
    """
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    scratch = np.empty((len(mean), length), x.dtype)
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            n, start = block // each, block % each * length
            stop = min(start + length, x.shape[2])
            values = nu[block] if keep else scratch
            if kind != GIVEN:
                _values_of_planes(x, constant, mean, precision, values, n, start, stop)
                if kind == NEAREST:
                    _one_hot(values, stop - start, largest, total)
                else:
                    _softmax(values, constant, stop - start, largest, total)
            for k in range(len(mean)):
                weight = values[k]
                count = number(0)
                for i in range(stop - start):
                    count += weight[i]
                counts[cut, k] += count
                for j in range(x.shape[1]):
                    plane, middle = x[n, j][start:stop], center[k, j]
                    a, b = number(0), number(0)
                    for i in range(stop - start):
                        z = plane[i] - middle
                        a += weight[i] * z
                        b += weight[i] * z * z
                    sums[cut, 0, k, j] += a
                    sums[cut, 1, k, j] += b


@loop
def _mix_planes(
    x: Array, components: Any, nu: Array, center: Array, slope: Array, level: Array, factor: Array, leak: Any,
    y: Array, n: int, start: int, stop: int,
) -> None:
    number = x.dtype.type
    for j in range(x.shape[1]):
        plane, out = x[n, j][start:stop], y[n, j][start:stop]
        for i in range(stop - start):
            total = number(0)
            for k in range(len(components)):
                value = _activated((plane[i] - center[k, j]) * slope[k, j] + level[k, j], leak)
                total += nu[k, i] * factor[k] * value
            out[i] = total


@loop
def normalize_planes(
    x: Array, components: Any, nu: Array, center: Array, slope: Array, level: Array, factor: Array, leak: Any,
    y: Array, first: int, last: int,
) -> None:
    """y = Σ_k ν_k factor_k act((x - center_k) slope_k + level_k), blocks ``first`` to ``last``."""
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        _mix_planes(x, components, nu[block], center, slope, level, factor, leak, y, n, start, stop)


@loop
def evaluate_planes(
    x: Array, components: Any, constant: Array, mean: Array, precision: Array, slope: Array, level: Array,
    factor: Array, leak: Any, y: Array, length: int, first: int, last: int,
) -> None:
    """Like :func:`normalize_planes` with the posteriors, of which none are kept."""
    each = (x.shape[2] + length - 1) // length
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    nu = np.empty((len(mean), length), x.dtype)
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        _values_of_planes(x, constant, mean, precision, nu, n, start, stop)
        _softmax(nu, constant, stop - start, largest, total)
        _mix_planes(x, components, nu, mean, slope, level, factor, leak, y, n, start, stop)


@loop
def gradient_sums_of_planes(
    x: Array, dy: Array, nu: Array, center: Array, slope: Array, level: Array, factor: Array, leak: Any,
    sums: Array, cuts: Array, first: int, last: int,
) -> None:
    """For each cut, Σ (x - center_k) g and Σ g with g = ν_k factor_k dy act', ``(cuts, 2, K, D)``."""
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            n, start = block // each, block % each * length
            stop = min(start + length, x.shape[2])
            for k in range(len(center)):
                weight = nu[block, k]
                for j in range(x.shape[1]):
                    plane, grad, middle = x[n, j][start:stop], dy[n, j][start:stop], center[k, j]
                    steep, high = slope[k, j], level[k, j]
                    a, b = number(0), number(0)
                    for i in range(stop - start):
                        z = plane[i] - middle
                        g = weight[i] * _through(z * steep + high, grad[i], leak)
                        a += g * z
                        b += g
                    sums[cut, 0, k, j] += a * factor[k]
                    sums[cut, 1, k, j] += b * factor[k]


@loop
def gradient_of_planes(
    x: Array, components: Any, dy: Array, nu: Array, center: Array, slope: Array, level: Array, factor: Array,
    leak: Any, by_x: Array, constant: Array, dx: Array, first: int, last: int,
) -> None:
    """dx = Σ_k ν_k (factor_k dy act' slope_k + (x - center_k) by_x_k + constant_k), blocks ``first`` to ``last``."""
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        weight = nu[block]
        for j in range(x.shape[1]):
            plane, grad, out = x[n, j][start:stop], dy[n, j][start:stop], dx[n, j][start:stop]
            for i in range(stop - start):
                total = number(0)
                for k in range(len(components)):
                    z = plane[i] - center[k, j]
                    through = _through(z * slope[k, j] + level[k, j], grad[i], leak) * (slope[k, j] * factor[k])
                    total += weight[k, i] * (through + (z * by_x[k, j] + constant[k, j]))
                out[i] = total


# --- rows ---------------------------------------------------------------------------------------------------------


@loop
def _values_of_rows(
    x: Array, constant: Array, mean: Array, precision: Array, values: Array, start: int, stop: int
) -> None:
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
def sums_of_rows(
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
    """Do what :func:`sums_of_planes` does."""
    number = x.dtype.type
    length = nu.shape[2]
    features = x.shape[1]
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    scratch = np.empty((len(mean), length), x.dtype)
    block_sums = np.empty((2, len(mean), features), x.dtype)
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            start = block * length
            stop = min(start + length, len(x))
            values = nu[block] if keep else scratch
            if kind != GIVEN:
                _values_of_rows(x, constant, mean, precision, values, start, stop)
                if kind == NEAREST:
                    _one_hot(values, stop - start, largest, total)
                else:
                    _softmax(values, constant, stop - start, largest, total)
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
def _mix_rows(
    x: Array, components: Any, nu: Array, center: Array, slope: Array, level: Array, factor: Array, leak: Any,
    y: Array, start: int, stop: int,
) -> None:
    number = x.dtype.type
    for i in range(start, stop):
        row, out = x[i], y[i]
        for j in range(len(row)):
            total = number(0)
            for k in range(len(components)):
                value = _activated((row[j] - center[k, j]) * slope[k, j] + level[k, j], leak)
                total += nu[k, i - start] * factor[k] * value
            out[j] = total


@loop
def normalize_rows(
    x: Array, components: Any, nu: Array, center: Array, slope: Array, level: Array, factor: Array, leak: Any,
    y: Array, first: int, last: int,
) -> None:
    """Do what :func:`normalize_planes` does."""
    length = nu.shape[2]
    for block in range(first, last):
        start = block * length
        stop = min(start + length, len(x))
        _mix_rows(x, components, nu[block], center, slope, level, factor, leak, y, start, stop)


@loop
def evaluate_rows(
    x: Array, components: Any, constant: Array, mean: Array, precision: Array, slope: Array, level: Array,
    factor: Array, leak: Any, y: Array, length: int, first: int, last: int,
) -> None:
    """Do what :func:`evaluate_planes` does."""
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    nu = np.empty((len(mean), length), x.dtype)
    for block in range(first, last):
        start = block * length
        stop = min(start + length, len(x))
        _values_of_rows(x, constant, mean, precision, nu, start, stop)
        _softmax(nu, constant, stop - start, largest, total)
        _mix_rows(x, components, nu, mean, slope, level, factor, leak, y, start, stop)


@loop
def gradient_sums_of_rows(
    x: Array, dy: Array, nu: Array, center: Array, slope: Array, level: Array, factor: Array, leak: Any,
    sums: Array, cuts: Array, first: int, last: int,
) -> None:
    """Do what :func:`gradient_sums_of_planes` does."""
    number = x.dtype.type
    length = nu.shape[2]
    features = x.shape[1]
    block_sums = np.empty((2, len(center), features), x.dtype)
    for cut in range(first, last):
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
                        g = w0 * _through(u * steep[j] + high[j], e[j], leak)
                        h = w1 * _through(v * steep[j] + high[j], f[j], leak)
                        once[j] += g * u + h * v
                        twice[j] += g + h
            for i in range(whole, stop - start):
                a, e = x[start + i], dy[start + i]
                for k in range(len(center)):
                    w0, once, twice = nu[block, k, i], block_sums[0, k], block_sums[1, k]
                    middle, steep, high = center[k], slope[k], level[k]
                    for j in range(features):
                        u = a[j] - middle[j]
                        g = w0 * _through(u * steep[j] + high[j], e[j], leak)
                        once[j] += g * u
                        twice[j] += g
            for k in range(len(center)):
                for j in range(features):
                    sums[cut, 0, k, j] += block_sums[0, k, j] * factor[k]
                    sums[cut, 1, k, j] += block_sums[1, k, j] * factor[k]


@loop
def gradient_of_rows(
    x: Array, components: Any, dy: Array, nu: Array, center: Array, slope: Array, level: Array, factor: Array,
    leak: Any, by_x: Array, constant: Array, dx: Array, first: int, last: int,
) -> None:
    """Do what :func:`gradient_of_planes` does."""
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
                    through = _through(z * slope[k, j] + level[k, j], grad[j], leak) * (slope[k, j] * factor[k])
                    total += weight[k, i - start] * (through + (z * by_x[k, j] + constant[k, j]))
                out[j] = total
