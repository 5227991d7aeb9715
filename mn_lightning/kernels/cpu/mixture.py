"""The mixture's passes: two over the rows for the output, two for the gradients."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.cpu.activations import leak_of
from mn_lightning.kernels.cpu.learned import Learned
from mn_lightning.kernels.cpu.rows import Rows
from mn_lightning.kernels.inner_graph import differentiable_gradients, wants_gradients
from mn_lightning.kernels.types import Mixture, NormOptions
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.precision import full_precision

FARTHEST = 30.0
"""Sums taken around something that is more standard deviations than this away from their mean are taken once more."""


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach()[0].contiguous().numpy()
    return array


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


class _Maps:
    """What the loops take for act((x - center) slope + level), summed with weights ν factor.

    Args:
        mean: ``(K, D)``, relative to a center.
        var: ``(K, D)``.
        weights: λ, ``(K,)``.
        parameters: γ and β, ``(1, 1, D)``, or None.
        options: which of the papers' formulas.
    """

    def __init__(
        self,
        mean: np.ndarray,
        var: np.ndarray,
        weights: np.ndarray,
        parameters: tuple[Tensor | None, ...],
        options: NormOptions,
    ) -> None:
        from mn_lightning.kernels.cpu.loops import mixture_maps

        loops: Any = mixture_maps
        self.loops, self.mean, self.var = loops, mean, var
        self.inside, self.eps = options.affine == "component", options.eps
        self.learned = Learned(parameters, (1.0, 0.0), mean.shape[1], torch.from_numpy(mean[:0]).dtype)
        leak = leak_of(options.activation)
        self.leak = None if leak is None else mean.dtype.type(leak)
        scale, ones = np.ones_like(weights), np.ones_like(weights)
        if options.scale == "sqrt":
            scale[weights > 0] = weights[weights > 0] ** -0.5
        self.early, self.factor = (scale, ones) if leak is None else (ones, scale)
        self.slope, self.level = np.empty_like(mean), np.empty_like(mean)
        self.components = (0,) * len(mean)
        loops.maps(*self._given(), self.slope, self.level)

    def _given(self) -> tuple[Any, ...]:
        return self.mean, self.var, *self.learned.arrays, self.inside, self.eps, self.early

    def backward(self, d_slope: np.ndarray, d_level: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Tensor | None]]:
        """Gradients of mean and var, and of the parameters."""
        d_mean, d_var, found = np.empty_like(self.mean), np.empty_like(self.mean), self.learned.empty()
        self.loops.gradients(*self._given(), d_slope, d_level, d_mean, d_var, *found)
        return d_mean, d_var, self.learned.gradients(found)


@torch.no_grad()
def _evaluate(x: Tensor, mixture: Mixture, gamma: Tensor | None, beta: Tensor | None, options: NormOptions) -> Tensor:
    rows = Rows(x)
    weights, means, variances = (_array(values) for values in mixture)
    density = rows.density(weights, means, variances, options.eps)
    maps = _Maps(np.zeros_like(means), variances, weights, (gamma, beta), options)
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
        mean: ``(K, D)``, relative to ``center``.
        var: ``(K, D)``.
        weights: ``(K,)``.
    """

    @np.errstate(all="ignore")  # what is not finite passes through without a warning, as in torch
    def __init__(self, rows: Rows, mixture: Mixture, options: NormOptions) -> None:
        given = [_array(values) for values in mixture]
        density = rows.density(given[0], given[1], given[2], options.eps)
        self.nu = rows.empty_posteriors(len(given[0]))
        nu = self.nu.numpy()
        self.counts, sums = rows.sums(rows.shared.POSTERIOR, density, given[1], nu)
        dtype = given[1].dtype
        if not options.training:
            self.weights, self.center, self.mean, self.var = given[0], given[1], np.zeros_like(given[1]), given[2]
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
            center = center.astype(dtype)
            shift, second = rows.sums(rows.shared.GIVEN, density, center, nu)[1] / total
            var = second - shift**2
            center = center + shift
        self.center = center.astype(dtype)
        self.mean = (center - self.center).astype(dtype)
        self.var = np.maximum(var, 0).astype(dtype)
        self.weights = (self.counts / self.counts.sum()).astype(dtype)


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
        maps = _Maps(batch.mean, batch.var, batch.weights, parameters, options)
        y, out = rows.empty(x)
        nu = batch.nu.numpy()
        rows.run(
            rows.loops.normalize, maps.components, nu, batch.center, maps.slope, maps.level, maps.factor, maps.leak, out
        )
        if wanted:
            ctx.save_for_backward(x, batch.nu, *mixture, *parameters)
            ctx.options, ctx.maps = options, maps
            ctx.center, ctx.counts = batch.center, batch.counts
        return y

    @staticmethod
    @full_precision
    @np.errstate(all="ignore")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, nu, weights, means, variances, *parameters = ctx.saved_tensors
        (dy,) = grads
        if torch.is_grad_enabled():
            gamma, beta = parameters
            y = reference.mixture_norm(x, Mixture(weights, means, variances), gamma, beta, ctx.options)
            dx, *of_parameters = differentiable_gradients(y, dy, (x, *parameters))
            return (dx, None, None, None, *of_parameters)
        rows, maps = Rows(x), ctx.maps
        upper, given = rows.array(dy), nu.numpy()
        sums = rows.gradient_sums(upper, given, ctx.center, maps.slope, maps.level, maps.factor, maps.leak)
        d_mean, d_var, of_parameters = maps.backward(*sums.astype(maps.mean.dtype))
        if not ctx.needs_input_grad[0]:
            return (None, None, None, None, *of_parameters)
        by_x, constant = np.zeros_like(ctx.center), np.zeros_like(ctx.center)
        if ctx.options.training:
            total = np.maximum(ctx.counts, np.finfo(x.numpy().dtype).tiny)[:, None]
            # var depends on mean only through the sum of weighted deviations from it, which is zero.
            by_x[:] = 2 * d_var / total
            constant[:] = d_mean / total - by_x * maps.mean
        dx, out = rows.empty(x)
        rows.run(
            rows.loops.gradient,
            *(maps.components, upper, given, ctx.center, maps.slope, maps.level, maps.factor, maps.leak),
            *(by_x, constant, out),
        )
        return (dx, None, None, None, *of_parameters)
