"""The loops for mixtures over rows ``(M, D)``; a block is some rows."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.mixture import NEAREST, activated, one_hot, softmax, through

Array = Any


@loop
def _values(x: Array, constant: Array, steep: Array, shift: Array, values: Array, start: int, stop: int) -> None:
    """Find constant_k - Σ_d (steep_kd x_d + shift_kd)² for the rows from ``start`` to ``stop``."""
    number = x.dtype.type
    features = x.shape[1]
    whole = (stop - start) // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = x[start + i], x[start + i + 1], x[start + i + 2], x[start + i + 3]
        for k in range(len(values)):
            s, t = steep[k], shift[k]
            s0, s1, s2, s3 = number(0), number(0), number(0), number(0)
            for j in range(features):
                e, f, g, h = a[j] * s[j] + t[j], b[j] * s[j] + t[j], c[j] * s[j] + t[j], d[j] * s[j] + t[j]
                s0 += e * e
                s1 += f * f
                s2 += g * g
                s3 += h * h
            out = values[k]
            out[i], out[i + 1] = constant[k] - s0, constant[k] - s1
            out[i + 2], out[i + 3] = constant[k] - s2, constant[k] - s3
    for i in range(whole, stop - start):
        a = x[start + i]
        for k in range(len(values)):
            s, t = steep[k], shift[k]
            s0 = number(0)
            for j in range(features):
                e = a[j] * s[j] + t[j]
                s0 += e * e
            values[k, i] = constant[k] - s0


@loop
def sums(
    x: Array,
    components: Any,
    kind: int,
    constant: Array,
    steep: Array,
    shift: Array,
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
    scratch = np.empty((len(constant), length), x.dtype)
    block_sums = np.empty((2, len(constant), features), x.dtype)
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            start = block * length
            stop = min(start + length, len(x))
            values = nu[block] if keep else scratch
            _values(x, constant, steep, shift, values, start, stop)
            if kind == NEAREST:
                one_hot(values, stop - start, largest, total)
            else:
                softmax(values, constant, stop - start, largest, total)
            block_sums[:] = number(0)
            _add(x, components, values, center, block_sums[0], block_sums[1], start, stop)
            for k in range(len(constant)):
                count = number(0)
                for i in range(stop - start):
                    count += values[k, i]
                counts[cut, k] += count
                for j in range(features):
                    sums[cut, 0, k, j] += block_sums[0, k, j]
                    sums[cut, 1, k, j] += block_sums[1, k, j]


@loop
def _add(x: Array, components: Any, nu: Array, center: Array, once: Array, twice: Array, start: int, stop: int) -> None:
    """Add Σν(x - center) and Σν(x - center)² of a block, four rows at once, to ``(K, D)`` each."""
    features = x.shape[1]
    whole = (stop - start) // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = x[start + i], x[start + i + 1], x[start + i + 2], x[start + i + 3]
        for j in range(features):
            e, f, g, h = a[j] - center[j], b[j] - center[j], c[j] - center[j], d[j] - center[j]
            for k in range(len(components)):
                w0, w1, w2, w3 = nu[k, i], nu[k, i + 1], nu[k, i + 2], nu[k, i + 3]
                once[k, j] += (w0 * e + w1 * f) + (w2 * g + w3 * h)
                twice[k, j] += (w0 * (e * e) + w1 * (f * f)) + (w2 * (g * g) + w3 * (h * h))
    for i in range(whole, stop - start):
        a = x[start + i]
        for j in range(features):
            e = a[j] - center[j]
            for k in range(len(components)):
                once[k, j] += nu[k, i] * e
                twice[k, j] += nu[k, i] * (e * e)


@loop
def deviations(
    x: Array, nu: Array, center: Array, mean: Array, sums: Array, cuts: Array, first: int, last: int
) -> None:
    """See the loop over planes."""
    number = x.dtype.type
    length = nu.shape[2]
    block_sums = np.empty((2, *mean.shape), x.dtype)
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            block_sums[:] = number(0)
            for i in range(min(length, len(x) - block * length)):
                row = x[block * length + i]
                for k in range(len(mean)):
                    for j in range(len(row)):
                        z = row[j] - center[j] - mean[k, j]
                        block_sums[0, k, j] += nu[block, k, i] * z
                        block_sums[1, k, j] += nu[block, k, i] * z * z
            for k in range(len(mean)):
                for j in range(mean.shape[1]):
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
            z, total = row[j] - center[j], number(0)
            for k in range(len(components)):
                if leak is None:
                    total += nu[k, i - start] * (z * slope[k, j] + level[k, j])
                else:
                    total += nu[k, i - start] * factor[k] * activated(z * slope[k, j] + level[k, j], leak)
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
    steep: Array,
    shift: Array,
    center: Array,
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
    nu = np.empty((len(components), length), x.dtype)
    for block in range(first, last):
        start = block * length
        stop = min(start + length, len(x))
        _values(x, constant, steep, shift, nu, start, stop)
        softmax(nu, constant, stop - start, largest, total)
        _mix(x, components, nu, center, slope, level, factor, leak, y, start, stop)


@loop
def gradient_sums(
    x: Array,
    components: Any,
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
    block_sums = np.empty((2, len(factor), features), x.dtype)
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            start = block * length
            stop = min(start + length, len(x))
            block_sums[:] = number(0)
            arrays = nu[block], center, slope, level
            _add_gradients(x, components, dy, *arrays, leak, block_sums[0], block_sums[1], start, stop)
            for k in range(len(factor)):
                for j in range(features):
                    sums[cut, 0, k, j] += block_sums[0, k, j] * factor[k]
                    sums[cut, 1, k, j] += block_sums[1, k, j] * factor[k]


@loop
def _add_gradients(
    x: Array,
    components: Any,
    dy: Array,
    nu: Array,
    center: Array,
    slope: Array,
    level: Array,
    leak: Any,
    once: Array,
    twice: Array,
    start: int,
    stop: int,
) -> None:
    """Add Σ (x - center) ν dy act' and Σ ν dy act' of a block, two rows at once, to ``(K, D)`` each."""
    features = x.shape[1]
    whole = (stop - start) // 2 * 2
    for i in range(0, whole, 2):
        a, b, p, q = x[start + i], x[start + i + 1], dy[start + i], dy[start + i + 1]
        for j in range(features):
            u, v = a[j] - center[j], b[j] - center[j]
            for k in range(len(components)):
                g = nu[k, i] * through(u * slope[k, j] + level[k, j], p[j], leak)
                h = nu[k, i + 1] * through(v * slope[k, j] + level[k, j], q[j], leak)
                once[k, j] += g * u + h * v
                twice[k, j] += g + h
    for i in range(whole, stop - start):
        a, p = x[start + i], dy[start + i]
        for j in range(features):
            u = a[j] - center[j]
            for k in range(len(components)):
                g = nu[k, i] * through(u * slope[k, j] + level[k, j], p[j], leak)
                once[k, j] += g * u
                twice[k, j] += g


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
                z, g = row[j] - center[j], grad[j]
                by_grad, by_z, rest = number(0), number(0), number(0)
                for k in range(len(components)):
                    w = weight[k, i - start]
                    if leak is None:
                        by_grad += w * slope[k, j]
                    else:
                        rest += w * factor[k] * slope[k, j] * through(z * slope[k, j] + level[k, j], g, leak)
                    by_z += w * by_x[k, j]
                    rest += w * constant[k, j]
                out[j] = g * by_grad + (z * by_z + rest)
