"""The loops behind ModeNorm and ModeGroupNorm: moments of each sample and channel, and a map of each.

Each loop has two forms. ``planes`` are ``(P, L)``, the L numbers of a sample's channel side by side; ``rows`` are
``(N, L, C)``, a pixel's C channels side by side. Loops do the planes, or the samples, from ``first`` to ``last``.
"""

from typing import Any

from mn_lightning.kernels.cpu.compile import loop

Array = Any


@loop
def moments_of_planes(x: Array, mean: Array, var: Array, first: int, last: int) -> None:
    """Mean and biased variance of each plane, in two readings of which the second finds the plane in the cache."""
    number = x.dtype.type
    for p in range(first, last):
        plane = x[p]
        length = number(len(plane))
        total = number(0)
        for i in range(len(plane)):
            total += plane[i] - plane[0]
        center = plane[0] + total / length
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
def moments_of_rows(x: Array, mean: Array, var: Array, first: int, last: int) -> None:
    """Mean and biased variance of each sample's channels."""
    number = x.dtype.type
    length = number(x.shape[1])
    channels = x.shape[2]
    whole = x.shape[1] // 4 * 4
    shift = mean[0].copy()
    for n in range(first, last):
        center, squares = mean[n], var[n]
        origin = x[n, 0]
        center[:] = number(0)
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
        shift[:] = number(0)
        squares[:] = number(0)
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
            off = shift[j] / length
            center[j] += off
            squares[j] = squares[j] / length - off * off


@loop
def map_planes(x: Array, slope: Array, offset: Array, y: Array, first: int, last: int) -> None:
    """y = x slope + offset."""
    for p in range(first, last):
        plane, out = x[p], y[p]
        a, b = slope[p], offset[p]
        for i in range(len(plane)):
            out[i] = plane[i] * a + b


@loop
def map_rows(x: Array, slope: Array, offset: Array, y: Array, first: int, last: int) -> None:
    """y = x slope + offset."""
    for n in range(first, last):
        a, b = slope[n], offset[n]
        for i in range(x.shape[1]):
            row, out = x[n, i], y[n, i]
            for j in range(len(row)):
                out[j] = row[j] * a[j] + b[j]


@loop
def sums_of_planes(x: Array, dy: Array, center: Array, product: Array, total: Array, first: int, last: int) -> None:
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
def sums_of_rows(x: Array, dy: Array, center: Array, product: Array, total: Array, first: int, last: int) -> None:
    """Σ (x - center) dy and Σ dy of each sample's channels."""
    number = x.dtype.type
    channels = x.shape[2]
    whole = x.shape[1] // 2 * 2
    for n in range(first, last):
        middle, products, totals = center[n], product[n], total[n]
        products[:] = number(0)
        totals[:] = number(0)
        for i in range(0, whole, 2):
            a, b, f, g = x[n, i], x[n, i + 1], dy[n, i], dy[n, i + 1]
            for j in range(channels):
                products[j] += (a[j] - middle[j]) * f[j] + (b[j] - middle[j]) * g[j]
                totals[j] += f[j] + g[j]
        for i in range(whole, x.shape[1]):
            a, f = x[n, i], dy[n, i]
            for j in range(channels):
                products[j] += (a[j] - middle[j]) * f[j]
                totals[j] += f[j]


@loop
def gradient_of_planes(
    x: Array, dy: Array, center: Array, slope: Array, by_x: Array, constant: Array, dx: Array, first: int, last: int
) -> None:
    """dx = dy slope + (x - center) by_x + constant."""
    for p in range(first, last):
        plane, grad, out = x[p], dy[p], dx[p]
        middle, a, b, c = center[p], slope[p], by_x[p], constant[p]
        for i in range(len(plane)):
            out[i] = grad[i] * a + ((plane[i] - middle) * b + c)


@loop
def gradient_of_rows(
    x: Array, dy: Array, center: Array, slope: Array, by_x: Array, constant: Array, dx: Array, first: int, last: int
) -> None:
    """dx = dy slope + (x - center) by_x + constant."""
    shift = constant[0].copy()
    for n in range(first, last):
        a, b = slope[n], by_x[n]
        for j in range(len(shift)):
            shift[j] = constant[n, j] - center[n, j] * by_x[n, j]
        for i in range(x.shape[1]):
            row, grad, out = x[n, i], dy[n, i], dx[n, i]
            for j in range(len(row)):
                out[j] = grad[j] * a[j] + (row[j] * b[j] + shift[j])
