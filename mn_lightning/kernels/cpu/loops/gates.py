"""The formulas of :mod:`mn_lightning.kernels.heads` as loops, with their gradients.

``product`` is Σ (x - pooled) dy over the pixels of each sample and channel, and ``total`` is Σ dy. Where a sample is
a single row ``(C,)``, ``within`` and ``product`` have one row of zeros for all, and ``d_within`` one that nobody reads.
"""

import math
from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.common import clear, of_sample

Array = Any

IN_CACHE = 2**14
"""How many numbers of an activation are read, and read again, before the next ones."""


@loop
def find_gates(pooled: Array, gate_weight: Array, gate_bias: Array, gates: Array, log_gates: Array) -> None:
    """g_n = softmax(W pooled_n + b), ``(N, K)``, and its logarithm."""
    number = pooled.dtype.type
    samples, modes = gates.shape
    for n in range(samples):
        row = pooled[n]
        largest = number(-np.inf)
        for k in range(modes):
            weights = gate_weight[k]
            logit = number(0)
            for c in range(len(row)):
                logit += row[c] * weights[c]
            log_gates[n, k] = logit + gate_bias[k]
            largest = max(largest, log_gates[n, k])
        total = number(0)
        for k in range(modes):
            total += math.exp(log_gates[n, k] - largest)
        shift = largest + math.log(total)
        for k in range(modes):
            log_gates[n, k] -= shift
            gates[n, k] = math.exp(log_gates[n, k])


@loop
def batch_moments(pooled: Array, within: Array, log_gates: Array, shares: Array, mean: Array, var: Array) -> None:
    """Shares g_nk / Σ_n g_nk, finite also for a mode that no sample uses, and the moments under them, ``(K, C)``."""
    number = pooled.dtype.type
    samples, modes = log_gates.shape
    channels = pooled.shape[1]
    for k in range(modes):
        largest = number(-np.inf)
        for n in range(samples):
            largest = max(largest, log_gates[n, k])
        total = number(0)
        for n in range(samples):
            shares[n, k] = math.exp(log_gates[n, k] - largest)
            total += shares[n, k]
        for n in range(samples):
            shares[n, k] /= total
    origin = pooled[0]
    for k in range(modes):
        middle, spread = mean[k], var[k]
        clear(middle)
        clear(spread)
        for n in range(samples):
            row, share = pooled[n], shares[n, k]
            for c in range(channels):
                middle[c] += share * (row[c] - origin[c])
        for c in range(channels):
            middle[c] += origin[c]
        for n in range(samples):
            row, inside, share = pooled[n], of_sample(within, n), shares[n, k]
            for c in range(channels):
                deviation = row[c] - middle[c]
                spread[c] += share * (inside[c] + deviation * deviation)


@loop
def steepness(var: Array, weight: Array, eps: float) -> Array:
    """Return γ/σ_k, ``(K, C)``."""
    number = var.dtype.type
    steep = np.empty_like(var)
    for k in range(len(var)):
        for c in range(var.shape[1]):
            steep[k, c] = weight[c] / np.sqrt(var[k, c] + number(eps))
    return steep


@loop
def maps_of_gates(gates: Array, mean: Array, steep: Array, bias: Array, slope: Array, offset: Array) -> None:
    """Slope Σ_k g_nk γ/σ_k and offset β - Σ_k g_nk μ_k γ/σ_k, ``(N, C)``."""
    samples, modes = gates.shape
    channels = mean.shape[1]
    for n in range(samples):
        a, b = slope[n], offset[n]
        clear(a)
        for c in range(channels):
            b[c] = bias[c]
        for k in range(modes):
            gate, middle, s = gates[n, k], mean[k], steep[k]
            for c in range(channels):
                a[c] += gate * s[c]
                b[c] -= gate * middle[c] * s[c]


@loop
def of_batch(
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
) -> None:
    """:class:`~mn_lightning.kernels.heads.BatchGates`."""
    log_gates = np.empty_like(gates)
    find_gates(pooled, gate_weight, gate_bias, gates, log_gates)
    batch_moments(pooled, within, log_gates, shares, mean, var)
    maps_of_gates(gates, mean, steepness(var, weight, eps), bias, slope, offset)


@loop
def of_running(
    pooled: Array,
    mean: Array,
    var: Array,
    gate_weight: Array,
    gate_bias: Array,
    weight: Array,
    bias: Array,
    eps: float,
    gates: Array,
    slope: Array,
    offset: Array,
) -> None:
    """:class:`~mn_lightning.kernels.heads.RunningGates`."""
    find_gates(pooled, gate_weight, gate_bias, gates, np.empty_like(gates))
    maps_of_gates(gates, mean, steepness(var, weight, eps), bias, slope, offset)


@loop
def gradients_of_batch(
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
    """Gradients of :func:`of_batch`."""
    d_gates, d_shares = np.empty_like(gates), np.empty_like(gates)
    d_mean, d_var = np.empty_like(mean), np.empty_like(mean)
    gradients_of_maps(pooled, gates, mean, var, weight, eps, product, total, d_gates, d_mean, d_var, d_weight, d_bias)
    gradients_of_moments(pooled, within, shares, mean, d_mean, d_var, d_shares, d_pooled, d_within)
    gradients_of_gates(pooled, gate_weight, gates, shares, d_gates, d_shares, d_pooled, d_gate_weight, d_gate_bias)


@loop
def gradients_of_running(
    pooled: Array,
    mean: Array,
    var: Array,
    gate_weight: Array,
    weight: Array,
    eps: float,
    gates: Array,
    product: Array,
    total: Array,
    d_pooled: Array,
    d_gate_weight: Array,
    d_gate_bias: Array,
    d_weight: Array,
    d_bias: Array,
) -> None:
    """Gradients of :func:`of_running`; ``d_pooled`` begins with zeros."""
    d_gates, nothing = np.empty_like(gates), np.zeros_like(gates)
    d_mean, d_var = np.empty_like(mean), np.empty_like(mean)
    gradients_of_maps(pooled, gates, mean, var, weight, eps, product, total, d_gates, d_mean, d_var, d_weight, d_bias)
    gradients_of_gates(pooled, gate_weight, gates, nothing, d_gates, nothing, d_pooled, d_gate_weight, d_gate_bias)


@loop
def gradients_of_maps(
    pooled: Array,
    gates: Array,
    mean: Array,
    var: Array,
    weight: Array,
    eps: float,
    product: Array,
    total: Array,
    d_gates: Array,
    d_mean: Array,
    d_var: Array,
    d_weight: Array,
    d_bias: Array,
) -> None:
    """Gradients of :func:`maps_of_gates`."""
    number = mean.dtype.type
    samples, modes = gates.shape
    channels = mean.shape[1]
    clear(d_weight)
    clear(d_bias)
    for n in range(samples):
        high = total[n]
        for c in range(channels):
            d_bias[c] += high[c]
    inverse, of_slope, of_level = (
        np.empty(channels, mean.dtype),
        np.empty(channels, mean.dtype),
        np.empty(channels, mean.dtype),
    )
    for k in range(modes):
        middle = mean[k]
        for c in range(channels):
            inverse[c] = number(1) / np.sqrt(var[k, c] + number(eps))
        clear(of_slope)
        clear(of_level)
        for n in range(samples):
            row, steep, high, gate = pooled[n], of_sample(product, n), total[n], gates[n, k]
            d_gate = number(0)
            for c in range(channels):
                through = steep[c] + (row[c] - middle[c]) * high[c]  # Σ (x - μ_k) dy
                d_gate += through * (inverse[c] * weight[c])
                of_slope[c] += gate * through
                of_level[c] += gate * high[c]
            d_gates[n, k] = d_gate
        for c in range(channels):
            d_weight[c] += inverse[c] * of_slope[c]
            d_mean[k, c] = -of_level[c] * inverse[c] * weight[c]
            d_var[k, c] = number(-0.5) * of_slope[c] * weight[c] * inverse[c] * inverse[c] * inverse[c]


@loop
def gradients_of_moments(
    pooled: Array,
    within: Array,
    shares: Array,
    mean: Array,
    d_mean: Array,
    d_var: Array,
    d_shares: Array,
    d_pooled: Array,
    d_within: Array,
) -> None:
    """Gradients of the moments in :func:`batch_moments`; d_pooled and d_within are set."""
    number = mean.dtype.type
    samples, modes = shares.shape
    channels = mean.shape[1]
    for n in range(samples):
        row, inside, to_pooled, to_within = pooled[n], of_sample(within, n), d_pooled[n], of_sample(d_within, n)
        clear(to_pooled)
        clear(to_within)
        for k in range(modes):
            share, middle, of_mean, of_var = shares[n, k], mean[k], d_mean[k], d_var[k]
            d_share = number(0)
            for c in range(channels):
                deviation = row[c] - middle[c]
                # What the mean has in common with all samples adds nothing: the shares sum to 1.
                d_share += of_mean[c] * deviation + of_var[c] * (inside[c] + deviation * deviation)
                to_pooled[c] += share * (of_mean[c] + number(2) * of_var[c] * deviation)
                to_within[c] += share * of_var[c]
            d_shares[n, k] = d_share


@loop
def gradients_of_gates(
    pooled: Array,
    gate_weight: Array,
    gates: Array,
    shares: Array,
    d_gates: Array,
    d_shares: Array,
    d_pooled: Array,
    d_gate_weight: Array,
    d_gate_bias: Array,
) -> None:
    """Gradients of gates and shares through both softmaxes; what pooled gets is added to d_pooled."""
    number = pooled.dtype.type
    samples, modes = gates.shape
    channels = pooled.shape[1]
    clear(d_gate_weight)
    clear(d_gate_bias)
    for k in range(modes):
        common = number(0)
        for n in range(samples):
            common += shares[n, k] * d_shares[n, k]
        for n in range(samples):
            d_gates[n, k] = gates[n, k] * d_gates[n, k] + shares[n, k] * (d_shares[n, k] - common)
    for n in range(samples):
        row, to_pooled = pooled[n], d_pooled[n]
        common = number(0)
        for k in range(modes):
            common += d_gates[n, k]
        for k in range(modes):
            d_logit = d_gates[n, k] - gates[n, k] * common
            d_gate_bias[k] += d_logit
            weights, to_weights = gate_weight[k], d_gate_weight[k]
            for c in range(channels):
                to_weights[c] += d_logit * row[c]
                to_pooled[c] += d_logit * weights[c]
