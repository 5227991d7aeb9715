"""The mixture's passes: one over the rows for each iteration of the fit, two for the output, two for the gradients."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.cpu.activations import leak_of
from mn_lightning.kernels.cpu.rows import Rows
from mn_lightning.kernels.inner_graph import InnerGraph, differentiable_gradients, wants_gradients
from mn_lightning.kernels.types import Mixture, NormOptions, Sums
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.precision import full_precision

FARTHEST = 30.0
"""Sums taken around something that is more standard deviations than this away from their mean are taken once more."""


def lloyd_sums(x: Tensor, centers: Tensor, origin: Tensor | None = None, processes: Processes = ALONE) -> Sums:
    """Assign each row to its nearest centre, and sum up the rows of each."""
    rows = Rows(x)
    means = _absolute(centers, origin)
    around = _absolute(torch.zeros_like(centers), origin)
    return _sums(*rows.sums(rows.shared.NEAREST, rows.nearest(means), around), x.dtype, processes)


def em_sums(
    x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None = None, processes: Processes = ALONE
) -> Sums:
    """Sum up the rows under their posteriors (Eq. 31)."""
    rows = Rows(x)
    density = rows.density(
        _array(mixture.weights), _absolute(mixture.means, origin), _array(mixture.variances), reg_covar
    )
    around = _absolute(torch.zeros_like(mixture.means), origin)
    return _sums(*rows.sums(rows.shared.POSTERIOR, density, around), x.dtype, processes)


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach()[0].contiguous().numpy()
    return array


def _absolute(means: Tensor, origin: Tensor | None) -> np.ndarray:
    return _array(means if origin is None else means + origin)


def _tensor(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values).to(dtype).unsqueeze(0)


def _sums(counts: np.ndarray, moments: np.ndarray, dtype: torch.dtype, processes: Processes) -> Sums:
    # The message of the reference backend, which processes that have no rows send.
    total, both = processes.sum(_tensor(counts, dtype), _tensor(np.concatenate(list(moments), axis=-1), dtype))
    return Sums(total, *both.chunk(2, dim=-1))


def mixture_norm(
    x: Tensor,
    mixture: Mixture,
    gamma: Tensor | None,
    beta: Tensor | None,
    options: NormOptions,
    processes: Processes = ALONE,
) -> Tensor:
    """Normalize rows ``(1, B, M, D)`` under a mixture (Eqs. 31-38)."""
    wanted = wants_gradients(x, gamma, beta)
    if not options.training and not wanted:
        return _evaluate(x, mixture, gamma, beta, options)
    y: Tensor = _Normalize.apply(x, mixture, options, wanted, gamma, beta)
    return y


def _head(
    mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, options: NormOptions, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """Slope and level, ``(1, K, D)``, of (x - center) slope + level, where ``mean`` is relative to that center."""
    slope, level, beta = options.maps(mean, var, gamma, beta)
    if options.activation is None:
        slope, level = slope * factor.unsqueeze(-1), level * factor.unsqueeze(-1)
    return slope, level if beta is None else level + beta  # Σ_k ν_k is 1


class _Maps:
    """What the loops take for act((x - center) slope + level), summed with weights ν factor.

    Args:
        outputs: slope and level, ``(1, K, D)``.
        factor: ``(1, K)``; without an activation it is in slope and level already.
        options: with the activation.
    """

    def __init__(self, outputs: tuple[Tensor, ...], factor: Tensor, options: NormOptions) -> None:
        self.slope, self.level = (_array(output) for output in outputs)
        leak = leak_of(options.activation)
        number = self.slope.dtype.type
        self.leak = None if leak is None else number(leak)
        self.factor = _array(factor) if leak is not None else np.ones(len(self.slope), self.slope.dtype)
        self.components = (0,) * len(self.slope)


@torch.no_grad()
def _evaluate(x: Tensor, mixture: Mixture, gamma: Tensor | None, beta: Tensor | None, options: NormOptions) -> Tensor:
    rows = Rows(x)
    weights, means, variances = (_array(values) for values in mixture)
    density = rows.density(weights, means, variances, options.eps)
    factor = options.factor(mixture.weights)
    outputs = _head(torch.zeros_like(mixture.means), mixture.variances, gamma, beta, options, factor)
    maps = _Maps(outputs, factor, options)
    y, out = rows.empty(x)
    arrays = maps.components, *density, maps.slope, maps.level, maps.factor, maps.leak, out, rows.length
    rows.run(rows.loops.evaluate, *arrays)
    return y


class _Batch:
    """Posteriors of the rows, and what they are normalized with.

    Attributes:
        nu: ``(blocks, K, length)``.
        counts: Σν, ``(K,)``; not used outside training.
        center: ``(K, D)``, what x is taken relative to: the means, rounded.
        mean: ``(1, K, D)``, relative to ``center``.
        var: ``(1, K, D)``.
        weights: ``(1, K)``.
    """

    def __init__(self, rows: Rows, mixture: Mixture, options: NormOptions) -> None:
        given = [_array(values) for values in mixture]
        density = rows.density(given[0], given[1], given[2], options.eps)
        self.nu = rows.empty_posteriors(len(given[0]))
        nu = self.nu.numpy()
        self.counts, sums = rows.sums(rows.shared.POSTERIOR, density, given[1], nu)
        dtype = mixture.means.dtype
        if not options.training:
            self.center, self.mean, self.var = given[1], torch.zeros_like(mixture.means), mixture.variances
            self.weights = mixture.weights
            return
        share = self.counts / self.counts.sum()
        dropped = (share < options.min_weight) & (share != share.max())
        if dropped.any():
            density.constant[dropped] = -np.inf
            self.counts, sums = rows.sums(rows.shared.POSTERIOR, density, given[1], nu)
        total = np.maximum(self.counts, np.finfo(np.float64).tiny)[:, None]
        shift, second = sums / total
        var = second - shift**2
        center = given[1] + shift
        if (shift**2 > FARTHEST**2 * (var + options.eps)).any():
            center = center.astype(given[1].dtype)
            shift, second = rows.sums(rows.shared.GIVEN, density, center, nu)[1] / total
            var = second - shift**2
            center = center + shift
        self.center = center.astype(given[1].dtype)
        self.mean = _tensor(center - self.center, dtype)
        self.var = _tensor(np.maximum(var, 0), dtype)
        self.weights = _tensor(self.counts / self.counts.sum(), dtype)


class _Normalize(torch.autograd.Function):
    """y_i = Σ_k ν_ik (x_i slope_k + offset_k), or with an activation inside the sum over k (Eq. 38).

    In training, gradients flow through the moments of ``x`` under ν, but not through ν.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mixture: Mixture, options: NormOptions, wanted: bool, *parameters: Tensor | None
    ) -> Tensor:
        rows = Rows(x)
        batch = _Batch(rows, mixture, options)
        factor = options.factor(batch.weights)
        inner = InnerGraph(partial(_head, options=options, factor=factor), (batch.mean, batch.var), parameters, wanted)
        maps = _Maps(inner.outputs, factor, options)
        y, out = rows.empty(x)
        nu = batch.nu.numpy()
        rows.run(
            rows.loops.normalize, maps.components, nu, batch.center, maps.slope, maps.level, maps.factor, maps.leak, out
        )
        if wanted:
            ctx.save_for_backward(x, batch.nu, *mixture, *parameters)
            ctx.options, ctx.inner, ctx.maps = options, inner, maps
            ctx.center, ctx.counts = batch.center, batch.counts
        return y

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, nu, weights, means, variances, *parameters = ctx.saved_tensors
        (dy,) = grads
        if torch.is_grad_enabled():
            gamma, beta = parameters
            y = reference.mixture_norm(x, Mixture(weights, means, variances), gamma, beta, ctx.options)
            dx, *of_parameters = differentiable_gradients(y, dy, (x, *parameters))
            return (dx, None, None, None, *of_parameters)
        rows, maps, inner = Rows(x), ctx.maps, ctx.inner
        upper, given = rows.array(dy), nu.numpy()
        sums = rows.gradient_sums(upper, given, ctx.center, maps.slope, maps.level, maps.factor, maps.leak)
        (dmean, dvar), of_parameters = inner.backward(*(_tensor(part, x.dtype) for part in sums))
        if not ctx.needs_input_grad[0]:
            return (None, None, None, None, *of_parameters)
        by_x, constant = np.zeros_like(ctx.center), np.zeros_like(ctx.center)
        if ctx.options.training:
            total = np.maximum(ctx.counts, np.finfo(x.numpy().dtype).tiny)[:, None]
            # var depends on mean only through the sum of weighted deviations from it, which is zero.
            by_x[:] = 2 * _array(dvar) / total
            constant[:] = _array(dmean) / total - by_x * _array(inner.moments[0])
        dx, out = rows.empty(x)
        rows.run(
            rows.loops.gradient,
            *(maps.components, upper, given, ctx.center, maps.slope, maps.level, maps.factor, maps.leak),
            *(by_x, constant, out),
        )
        return (dx, None, None, None, *of_parameters)
