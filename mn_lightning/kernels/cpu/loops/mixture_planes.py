"""The loops for mixtures over planes ``(N, D, L)``; a block is some pixels of one sample."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.mixture import NEAREST, activated, one_hot, softmax, through

Array = Any


@loop
def _values(
    x: Array, constant: Array, steep: Array, shift: Array, values: Array, n: int, start: int, stop: int
) -> None:
    """Find constant_k - Σ_d (steep_kd x_d + shift_kd)² for the pixels of sample ``n`` from ``start`` to ``stop``."""
    features = x.shape[1]
    whole = features // 4 * 4
    for k in range(len(values)):
        out = values[k]
        for i in range(stop - start):
            out[i] = constant[k]
    for j in range(0, whole, 4):
        a, b = x[n, j][start:stop], x[n, j + 1][start:stop]
        c, d = x[n, j + 2][start:stop], x[n, j + 3][start:stop]
        for k in range(len(values)):
            out = values[k]
            s0, s1, s2, s3 = steep[k, j], steep[k, j + 1], steep[k, j + 2], steep[k, j + 3]
            t0, t1, t2, t3 = shift[k, j], shift[k, j + 1], shift[k, j + 2], shift[k, j + 3]
            for i in range(stop - start):
                e, f, g, h = a[i] * s0 + t0, b[i] * s1 + t1, c[i] * s2 + t2, d[i] * s3 + t3
                out[i] -= (e * e + f * f) + (g * g + h * h)
    for j in range(whole, features):
        a = x[n, j][start:stop]
        for k in range(len(values)):
            out, s0, t0 = values[k], steep[k, j], shift[k, j]
            for i in range(stop - start):
                e = a[i] * s0 + t0
                out[i] -= e * e


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
    """Read the rows once: find what each component has of them, and for each cut Σν, Σν(x - center), Σν(x - center)².

    Args:
        x: the planes.
        components: K places; not used here.
        kind: NEAREST finds the largest, and POSTERIOR the softmax, of constant_k - Σ_d (steep_kd x_d + shift_kd)².
        constant: ``(K,)``.
        steep: ``(K, D)``.
        shift: ``(K, D)``.
        center: ``(D,)``.
        nu: where ν goes; has but one place where it is not kept.
        keep: whether ν is kept.
        counts: result, ``(cuts, K)``, zeros before.
        sums: result, ``(cuts, 2, K, D)``, likewise.
        cuts: at which block each cut starts.
        first: cut to start with.
        last: cut to end before.
    """
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    scratch = np.empty((len(constant), length), x.dtype)
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            n, start = block // each, block % each * length
            stop = min(start + length, x.shape[2])
            values = nu[block] if keep else scratch
            _values(x, constant, steep, shift, values, n, start, stop)
            if kind == NEAREST:
                one_hot(values, stop - start, largest, total)
            else:
                softmax(values, constant, stop - start, largest, total)
            for k in range(len(constant)):
                count = number(0)
                for i in range(stop - start):
                    count += values[k, i]
                counts[cut, k] += count
            _add(x, values, center, sums[cut], n, start, stop)


@loop
def _add(x: Array, nu: Array, center: Array, sums: Array, n: int, start: int, stop: int) -> None:
    """Add Σν(x - center) and Σν(x - center)² of a block, four channels at once, to ``(2, K, D)``."""
    zero = x.dtype.type(0)
    features = x.shape[1]
    whole = features // 4 * 4
    for j in range(0, whole, 4):
        a, b = x[n, j][start:stop], x[n, j + 1][start:stop]
        c, d = x[n, j + 2][start:stop], x[n, j + 3][start:stop]
        m0, m1, m2, m3 = center[j], center[j + 1], center[j + 2], center[j + 3]
        for k in range(len(nu)):
            weight = nu[k]
            a1, a2, b1, b2, c1, c2, d1, d2 = zero, zero, zero, zero, zero, zero, zero, zero
            for i in range(stop - start):
                w = weight[i]
                e, f, g, h = a[i] - m0, b[i] - m1, c[i] - m2, d[i] - m3
                a1 += w * e
                b1 += w * f
                c1 += w * g
                d1 += w * h
                a2 += w * e * e
                b2 += w * f * f
                c2 += w * g * g
                d2 += w * h * h
            sums[0, k, j] += a1
            sums[0, k, j + 1] += b1
            sums[0, k, j + 2] += c1
            sums[0, k, j + 3] += d1
            sums[1, k, j] += a2
            sums[1, k, j + 1] += b2
            sums[1, k, j + 2] += c2
            sums[1, k, j + 3] += d2
    for j in range(whole, features):
        a, m0 = x[n, j][start:stop], center[j]
        for k in range(len(nu)):
            a1, a2 = zero, zero
            for i in range(stop - start):
                e = a[i] - m0
                a1 += nu[k, i] * e
                a2 += nu[k, i] * e * e
            sums[0, k, j] += a1
            sums[1, k, j] += a2


@loop
def deviations(
    x: Array, nu: Array, center: Array, mean: Array, sums: Array, cuts: Array, first: int, last: int
) -> None:
    """For each cut, Σν(x - center - mean_k) and Σν(x - center - mean_k)², where ν is known."""
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            n, start = block // each, block % each * length
            for k in range(len(mean)):
                for j in range(x.shape[1]):
                    a, b = number(0), number(0)
                    for i in range(min(length, x.shape[2] - start)):
                        z = x[n, j, start + i] - center[j] - mean[k, j]
                        a += nu[block, k, i] * z
                        b += nu[block, k, i] * z * z
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
        plane, out, middle = x[n, j][start:stop], y[n, j][start:stop], center[j]
        for i in range(stop - start):
            z, total = plane[i] - middle, number(0)
            for k in range(len(components)):
                if leak is None:
                    total += nu[k, i] * (z * slope[k, j] + level[k, j])
                else:
                    total += nu[k, i] * factor[k] * activated(z * slope[k, j] + level[k, j], leak)
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
    """Y = Σ_k ν_k factor_k act((x - center) slope_k + level_k), blocks ``first`` to ``last``.

    Without an activation, factor is 1.
    """
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
    """Like :func:`normalize` with the posteriors, of which none are kept."""
    each = (x.shape[2] + length - 1) // length
    largest, total = np.empty(length, x.dtype), np.empty(length, x.dtype)
    nu = np.empty((len(components), length), x.dtype)
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        _values(x, constant, steep, shift, nu, n, start, stop)
        softmax(nu, constant, stop - start, largest, total)
        _mix(x, components, nu, center, slope, level, factor, leak, y, n, start, stop)


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
    """For each cut, Σ (x - center) g and Σ g with g = ν_k factor_k dy act', ``(cuts, 2, K, D)``."""
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for cut in range(first, last):
        for block in range(cuts[cut], cuts[cut + 1]):
            n, start = block // each, block % each * length
            stop = min(start + length, x.shape[2])
            for j in range(x.shape[1]):
                plane, grad, middle = x[n, j][start:stop], dy[n, j][start:stop], center[j]
                for k in range(len(factor)):
                    weight = nu[block, k]
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
    """Dx = Σ_k ν_k (factor_k dy act' slope_k + (x - center) by_x_k + constant_k), blocks ``first`` to ``last``."""
    number = x.dtype.type
    length = nu.shape[2]
    each = (x.shape[2] + length - 1) // length
    for block in range(first, last):
        n, start = block // each, block % each * length
        stop = min(start + length, x.shape[2])
        weight = nu[block]
        for j in range(x.shape[1]):
            plane, grad, out, middle = x[n, j][start:stop], dy[n, j][start:stop], dx[n, j][start:stop], center[j]
            for i in range(stop - start):
                z, g = plane[i] - middle, grad[i]
                by_grad, by_z, rest = number(0), number(0), number(0)
                for k in range(len(components)):
                    w = weight[k, i]
                    if leak is None:
                        by_grad += w * slope[k, j]
                    else:
                        rest += w * factor[k] * slope[k, j] * through(z * slope[k, j] + level[k, j], g, leak)
                    by_z += w * by_x[k, j]
                    rest += w * constant[k, j]
                out[i] = g * by_grad + (z * by_z + rest)
