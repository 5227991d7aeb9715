"""Each component's map of a row, (x - center) slope + level, from moments and parameters, with its gradients.

``mean`` is relative to the center. Of the affine map there is γ and β after the sum over components ("output"), or in
each component's moments ("component", Eq. 37), where ``inside`` says so. ``factor`` is 1/√λ_k, or ones where it is
applied later, because an activation comes before it.
"""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.common import clear

Array = Any


@loop
def factors(weights: Array, root: bool, affine: bool, early: Array, late: Array) -> None:
    """1/√λ_k if ``root``, else 1; 1 for a component not in use. ``early`` if all is ``affine``, else ``late``."""
    for k in range(len(weights)):
        factor = weights[k] ** -0.5 if root and weights[k] > 0 else 1.0
        early[k] = factor if affine else 1.0
        late[k] = 1.0 if affine else factor


@loop
def maps(
    mean: Array,
    var: Array,
    gamma: Array,
    beta: Array,
    inside: bool,
    eps: float,
    factor: Array,
    slope: Array,
    level: Array,
) -> None:
    """Slope and level, ``(K, D)``."""
    number = mean.dtype.type
    for k in range(len(mean)):
        for d in range(mean.shape[1]):
            if inside:
                steep = number(1) / np.sqrt(var[k, d] * gamma[d] + number(eps))
                slope[k, d] = steep * factor[k]
                level[k, d] = -(mean[k, d] + beta[d]) * steep * factor[k]
            else:
                steep = gamma[d] / np.sqrt(var[k, d] + number(eps))
                slope[k, d] = steep * factor[k]
                level[k, d] = beta[d] - mean[k, d] * steep * factor[k]  # Σ_k ν_k is 1


@loop
def gradients(
    mean: Array,
    var: Array,
    gamma: Array,
    beta: Array,
    inside: bool,
    eps: float,
    factor: Array,
    sums: Array,
    counts: Array,
    by_x: Array,
    constant: Array,
    d_gamma: Array,
    d_beta: Array,
) -> None:
    """Gradients of :func:`maps`, and what they do to the rows through the moments.

    Args:
        mean: and the six that follow, as there.
        var: likewise.
        gamma: likewise.
        beta: likewise.
        inside: likewise.
        eps: likewise.
        factor: likewise.
        sums: gradients of slope and level, ``(2, K, D)``.
        counts: Σν, ``(K,)``; 0 where the moments are not those of the rows.
        by_x: result, ``(K, D)``, that a row gets times ν_k (x - center).
        constant: result, ``(K, D)``, that a row gets times ν_k.
        d_gamma: result, ``(D,)``.
        d_beta: result, ``(D,)``.
    """
    number = mean.dtype.type
    clear(d_gamma)
    clear(d_beta)
    for k in range(len(mean)):
        share = 1 / counts[k] if counts[k] > 0 else 0.0
        for d in range(mean.shape[1]):
            d_slope, d_level = sums[0, k, d], sums[1, k, d]
            of_level = d_level * factor[k]
            if inside:
                inverse = number(1) / np.sqrt(var[k, d] * gamma[d] + number(eps))
                of_inverse = d_slope * factor[k] - of_level * (mean[k, d] + beta[d])
                of_square = -0.5 * of_inverse * inverse * inverse * inverse
                d_mean = -of_level * inverse
                d_beta[d] -= of_level * inverse
                d_var = of_square * gamma[d]
                d_gamma[d] += of_square * var[k, d]
            else:
                inverse = number(1) / np.sqrt(var[k, d] + number(eps))
                of_steep = d_slope * factor[k] - of_level * mean[k, d]
                d_mean = -of_level * gamma[d] * inverse
                d_beta[d] += d_level
                d_var = -0.5 * of_steep * gamma[d] * inverse * inverse * inverse
                d_gamma[d] += of_steep * inverse
            # The variance depends on the mean only through the sum of weighted deviations from it, which is zero.
            by_x[k, d] = 2 * d_var * share
            constant[k, d] = d_mean * share - 2 * d_var * share * mean[k, d]
