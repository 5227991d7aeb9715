"""Each component's map of a row, (x - center) slope + level, from moments and parameters, with its gradients.

``mean`` is relative to the center. Of the affine map there is γ and β after the sum over components ("output"), or in
each component's moments ("component", Eq. 37), where ``inside`` says so. ``factor`` is 1/√λ_k, or ones where it is
applied later, because an activation comes before it.
"""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop

Array = Any


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
    d_slope: Array,
    d_level: Array,
    d_mean: Array,
    d_var: Array,
    d_gamma: Array,
    d_beta: Array,
) -> None:
    """Gradients of :func:`maps`."""
    number = mean.dtype.type
    d_gamma[:] = number(0)
    d_beta[:] = number(0)
    for k in range(len(mean)):
        for d in range(mean.shape[1]):
            if inside:
                inverse = number(1) / np.sqrt(var[k, d] * gamma[d] + number(eps))
                of_level = d_level[k, d] * factor[k]
                of_inverse = d_slope[k, d] * factor[k] - of_level * (mean[k, d] + beta[d])
                of_square = number(-0.5) * of_inverse * inverse * inverse * inverse
                d_mean[k, d] = -of_level * inverse
                d_beta[d] -= of_level * inverse
                d_var[k, d] = of_square * gamma[d]
                d_gamma[d] += of_square * var[k, d]
            else:
                inverse = number(1) / np.sqrt(var[k, d] + number(eps))
                of_level = d_level[k, d] * factor[k]
                of_steep = d_slope[k, d] * factor[k] - of_level * mean[k, d]
                d_mean[k, d] = -of_level * gamma[d] * inverse
                d_beta[d] += d_level[k, d]
                d_var[k, d] = number(-0.5) * of_steep * gamma[d] * inverse * inverse * inverse
                d_gamma[d] += of_steep * inverse
