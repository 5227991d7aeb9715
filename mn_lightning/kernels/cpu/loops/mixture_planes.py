"""The loops for mixtures over planes ``(N, D, L)``; a block is some pixels of one sample."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.mixture import GIVEN, NEAREST, activated, one_hot, softmax, through

Array = Any


@loop
def _values(
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
        counts[cut] = 0.0
        sums[cut] = 0.0
        for block in range(cuts[cut], cuts[cut + 1]):
            n, start = block // each, block % each * length
            stop = min(start + length, x.shape[2])
            values = nu[block] if keep else scratch
            if kind != GIVEN:
                _values(x, constant, mean, precision, values, n, start, stop)
                if kind == NEAREST:
                    one_hot(values, stop - start, largest, total)
                else:
                    softmax(values, constant, stop - start, largest, total)
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
    n: int,
    start: int,
    stop: int,
) -> None:
    number = x.dtype.type
    for j in range(x.shape[1]):
        plane, out = x[n, j][start:stop], y[n, j][start:stop]
        for i in range(stop - start):
            total = number(0)
            for k in range(len(components)):
                value = activated((plane[i] - center[k, j]) * slope[k, j] + level[k, j], leak)
                total += nu[k, i] * factor[k] * value
            out[i] = total


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
    """Y = Σ_k ν_k factor_k act((x - center_k) slope_k + level_k), blocks ``first`` to ``last``."""
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        _mix(x, components, nu[block], center, slope, level, factor, leak, y, n, start, stop)


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
    """Like :func:`normalize` with the posteriors, of which none are kept."""
    each = (x.shape[2] + length - 1) // length
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    nu = np.empty((len(mean), length), x.dtype)
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        _values(x, constant, mean, precision, nu, n, start, stop)
        softmax(nu, constant, stop - start, largest, total)
        _mix(x, components, nu, mean, slope, level, factor, leak, y, n, start, stop)


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
    """For each cut, Σ (x - center_k) g and Σ g with g = ν_k factor_k dy act', ``(cuts, 2, K, D)``."""
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for cut in range(first, last):
        sums[cut] = 0.0
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
                        g = weight[i] * through(z * steep + high, grad[i], leak)
                        a += g * z
                        b += g
                    sums[cut, 0, k, j] += a * factor[k]
                    sums[cut, 1, k, j] += b * factor[k]


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
    """Dx = Σ_k ν_k (factor_k dy act' slope_k + (x - center_k) by_x_k + constant_k), blocks ``first`` to ``last``."""
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
                    steep = through(z * slope[k, j] + level[k, j], grad[i], leak) * (slope[k, j] * factor[k])
                    total += weight[k, i] * (steep + (z * by_x[k, j] + constant[k, j]))
                out[i] = total
