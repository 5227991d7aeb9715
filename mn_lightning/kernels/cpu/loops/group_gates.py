"""ModeGroupNorm's formulas (:class:`mn_lightning.kernels.heads.GroupGates`) as loops over samples, with gradients.

``product`` is Σ (x - pooled) dy over the pixels of each sample and channel, and ``total`` is Σ dy. Where a sample is
a single row ``(C,)``, ``within`` and ``product`` have one row of zeros for all, and ``d_within`` one that nobody reads.
"""

import math
from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.common import clear, of_sample
from mn_lightning.kernels.cpu.loops.mixture import exponentials

Array = Any


@loop
def _find_gates(pooled: Array, gate_weight: Array, gate_bias: Array, gates: Array, shares: Array) -> None:
    """g_c = softmax(w pooled_c + b) over the modes, and g_ck / Σ_c g_ck, ``(K, C)``, of one sample."""
    number = pooled.dtype.type
    modes, channels = gates.shape
    largest, total = np.full(channels, -np.inf, pooled.dtype), np.zeros(channels, pooled.dtype)
    for k in range(modes):
        row, a, b = gates[k], gate_weight[k], gate_bias[k]
        for c in range(channels):
            row[c] = pooled[c] * a + b
            largest[c] = row[c] if row[c] > largest[c] else largest[c]
    for k in range(modes):
        row, kept = gates[k], shares[k]
        for c in range(channels):
            row[c] -= largest[c]
            kept[c] = row[c]
        exponentials(row)
        for c in range(channels):
            total[c] += row[c]
    for k in range(modes):
        row, share = gates[k], shares[k]
        count = number(0)
        for c in range(channels):
            row[c] /= total[c]
            count += row[c]
        if count > number(1e-30):
            for c in range(channels):
                share[c] = row[c] / count
        else:  # of a mode that no channel uses, on the logarithmic scale
            highest = number(-np.inf)
            for c in range(channels):
                share[c] = share[c] - math.log(total[c])
                highest = max(highest, share[c])
            count = number(0)
            for c in range(channels):
                share[c] = math.exp(share[c] - highest)
                count += share[c]
            for c in range(channels):
                share[c] /= count


@loop
def maps(
    pooled: Array,
    within: Array,
    gate_weight: Array,
    gate_bias: Array,
    weight: Array,
    bias: Array,
    eps: float,
    gates: Array,
    shares: Array,
    mean: Array,
    var: Array,
    slope: Array,
    offset: Array,
    first: int,
    last: int,
) -> None:
    """Slope γ/K Σ_k 1/σ_k and offset β - γ/K Σ_k μ_k/σ_k, ``(N, C)``, of samples ``first`` to ``last``."""
    number = pooled.dtype.type
    modes, channels = gates.shape[1], pooled.shape[1]
    for n in range(first, last):
        row, inside = pooled[n], of_sample(within, n)
        _find_gates(row, gate_weight, gate_bias, gates[n], shares[n])
        a, b = number(0), number(0)
        for k in range(modes):
            share = shares[n, k]
            middle, spread = number(0), number(0)
            for c in range(channels):
                middle += share[c] * (row[c] - row[0])
            middle += row[0]
            for c in range(channels):
                deviation = row[c] - middle
                spread += share[c] * (inside[c] + deviation * deviation)
            mean[n, k], var[n, k] = middle, spread
            inverse = number(1) / np.sqrt(spread + number(eps)) / number(modes)
            a += inverse
            b += middle * inverse
        for c in range(channels):
            slope[n, c] = weight[c] * a
            offset[n, c] = bias[c] - weight[c] * b


@loop
def gradients(
    pooled: Array,
    within: Array,
    gate_weight: Array,
    weight: Array,
    eps: float,
    gates: Array,
    shares: Array,
    mean: Array,
    var: Array,
    product: Array,
    total: Array,
    d_pooled: Array,
    d_within: Array,
    d_gate_weight: Array,
    d_gate_bias: Array,
    d_weight: Array,
    d_bias: Array,
) -> None:
    """Gradients of :func:`maps`."""
    number = pooled.dtype.type
    samples, modes, channels = gates.shape
    clear(d_gate_weight)
    clear(d_gate_bias)
    clear(d_weight)
    clear(d_bias)
    d_logits = np.empty((modes, channels), pooled.dtype)
    common = np.empty(channels, pooled.dtype)
    for n in range(samples):
        row, inside, steep, high = pooled[n], of_sample(within, n), of_sample(product, n), total[n]
        to_pooled, to_within = d_pooled[n], of_sample(d_within, n)
        clear(to_pooled)
        clear(to_within)
        clear(common)
        for c in range(channels):
            d_bias[c] += high[c]
        for k in range(modes):
            middle = mean[n, k]
            inverse = number(1) / np.sqrt(var[n, k] + number(eps))
            of_inverse, of_level = number(0), number(0)
            for c in range(channels):
                through = steep[c] + (row[c] - middle) * high[c]  # Σ (x - μ_k) dy
                of_inverse += weight[c] * through
                of_level += weight[c] * high[c]
                d_weight[c] += through * (inverse / number(modes))
            d_mean = -of_level * inverse / number(modes)
            d_var = number(-0.5) * of_inverse * inverse * inverse * inverse / number(modes)
            share, gate, to_logits = shares[n, k], gates[n, k], d_logits[k]
            d_count = number(0)
            for c in range(channels):
                deviation = row[c] - middle
                # What the mean has in common with all channels adds nothing: the shares sum to 1.
                to_logits[c] = d_mean * deviation + d_var * (inside[c] + deviation * deviation)
                d_count += share[c] * to_logits[c]
                to_pooled[c] += share[c] * (d_mean + number(2) * d_var * deviation)
                to_within[c] += share[c] * d_var
            for c in range(channels):
                to_logits[c] = share[c] * (to_logits[c] - d_count)
                common[c] += to_logits[c]
        for k in range(modes):
            gate, to_logits = gates[n, k], d_logits[k]
            of_weight, of_bias = number(0), number(0)
            for c in range(channels):
                d_logit = to_logits[c] - gate[c] * common[c]
                of_weight += d_logit * row[c]
                of_bias += d_logit
                to_pooled[c] += d_logit * gate_weight[k]
            d_gate_weight[k] += of_weight
            d_gate_bias[k] += of_bias
