"""What the loops for mixtures of K Gaussians with D features share: densities, posteriors, the activation.

The rows are read in blocks that stay in the cache while their posteriors are found and used. Posteriors ν have one
place for each block, ``(blocks, K, length)``, of which the last may be longer than the block.

log λ_k p_k(x) is constant_k - Σ_d (steep_kd x_d + shift_kd)²: so written, it takes two operations for each number.

``components`` is a tuple of length K and nothing else: its length is known to the compiler, which then writes out the
innermost loops over k. ``leak`` is None without an activation inside the sum over k, and else what a negative number is
multiplied with: 0 for ReLU.

Sums are taken around a ``center`` ``(D,)`` that all components have in common, in numbers of x's type within a block,
and added up in float64.
"""

import math
from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import formula, loop
from mn_lightning.kernels.cpu.loops.common import clear

Array = Any

NEAREST, POSTERIOR = 0, 1
"""What the posteriors in ``sums`` are: 1 for the nearest centre, or Eq. 31."""


LEAST = 1e-30
"""A smaller posterior is 0: products with it would be denormal numbers, which take a CPU many times as long."""


@formula
def exponential(x: Any) -> Any:
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


@loop
def exponentials(values: Array) -> None:
    """Put e^x in the place of each x <= 0."""
    if values.itemsize == 4:
        for i in range(len(values)):
            values[i] = exponential(np.float32(values[i]))
    else:
        for i in range(len(values)):
            values[i] = math.exp(values[i])


@formula
def densities(
    weights: Array, means: Array, variances: Array, reg_covar: float, constant: Array, steep: Array, shift: Array
) -> None:
    """Log λ_k p_k(x) = constant_k - Σ_d (steep_kd x_d + shift_kd)² (Eqs. 26-27); a weight of 0 makes it -inf."""
    for k in range(len(weights)):
        total = math.log(weights[k]) if weights[k] > 0 else -np.inf
        for d in range(means.shape[1]):
            variance = np.float64(variances[k, d]) + reg_covar
            steep[k, d] = math.sqrt(0.5 / variance)
            shift[k, d] = -steep[k, d] * means[k, d]
            total -= 0.5 * math.log(2 * math.pi * variance)
        constant[k] = total


@formula
def maximize(counts: Array, sums: Array, origin: Array, weights: Array, means: Array, variances: Array) -> None:
    """M step, from Σν, ``(K,)``, Σν(x - origin) and Σν(x - origin)², ``(2, K, D)``.

    A component without rows keeps its mean, with weight 0.
    """
    total = 0.0
    for k in range(len(weights)):
        total += counts[k]
    for k in range(len(weights)):
        count = counts[k]
        weights[k] = count / total
        for d in range(len(origin)):
            shift, second = 0.0, 0.0
            if count > 0:
                shift, second = sums[0, k, d] / count, sums[1, k, d] / count
                means[k, d] = origin[d] + shift
            variance = second - shift * shift
            variances[k, d] = variance if not variance < 0 else 0.0


@formula
def drop(counts: Array, min_weight: float, constant: Array) -> bool:
    """Take components with a smaller weight out of a density, but never the heaviest, and say whether there are some.

    Args:
        counts: Σν, ``(K,)``.
        min_weight: smallest weight.
        constant: of the density; becomes -inf.
    """
    total, largest = 0.0, 0.0
    for k in range(len(counts)):
        total += counts[k]
        largest = max(largest, counts[k])
    dropped = False
    for k in range(len(counts)):
        if counts[k] / total < min_weight and counts[k] != largest:
            constant[k] = -np.inf
            dropped = True
    return dropped


@formula
def moments(counts: Array, sums: Array, farthest: float, eps: float, weights: Array, mean: Array, var: Array) -> bool:
    """Moments of each component (Eqs. 35-36), from Σν, ``(K,)``, Σν(x - center) and Σν(x - center)², ``(2, K, D)``.

    ``weights`` is the share of Σν of the rows. ``mean`` is relative to the center.

    Returns:
        Whether a mean is so many as ``farthest`` standard deviations away from the center.
    """
    far, rows = False, 0.0
    for k in range(len(counts)):
        rows += counts[k]
    for k in range(len(counts)):
        weights[k] = counts[k] / rows
        count = max(counts[k], 2.3e-308)
        for d in range(mean.shape[1]):
            shift, second = sums[0, k, d] / count, sums[1, k, d] / count
            variance = second - shift * shift
            if shift * shift > farthest * farthest * (variance + eps):
                far = True
            mean[k, d] = shift
            var[k, d] = variance if not variance < 0 else 0.0
    return far


@formula
def deviations(sums: Array, counts: Array, mean: Array, var: Array) -> None:
    """Variances from Σν(x - center - mean_k) and Σν(x - center - mean_k)²; means get what was missing."""
    for k in range(len(counts)):
        count = max(counts[k], 2.3e-308)
        for d in range(mean.shape[1]):
            shift, second = sums[0, k, d] / count, sums[1, k, d] / count
            variance = second - shift * shift
            mean[k, d] += shift
            var[k, d] = variance if not variance < 0 else 0.0


@loop
def softmax(values: Array, constant: Array, length: int, largest: Array, total: Array) -> None:
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
            clear(row)
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
            share = row[i] * total[i]
            row[i] = share if share > number(LEAST) else number(0)


@loop
def one_hot(values: Array, length: int, largest: Array, nearest: Array) -> None:
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
def activated(value: Array, leak: Any) -> Array:
    """What comes out of the activation."""
    if leak is None:
        return value
    return value if not value <= 0 else (value * leak if leak != 0 else leak)


@loop
def through(value: Array, grad: Array, leak: Any) -> Array:
    """Gradient of what went into the activation."""
    if leak is None:
        return grad
    return grad if value > 0 else grad * leak
