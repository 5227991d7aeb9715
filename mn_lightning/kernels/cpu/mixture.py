"""The mixture's passes: two over the rows for the output, two for the gradients."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.cpu import layout
from mn_lightning.kernels.cpu.activations import leak_of
from mn_lightning.kernels.cpu.fitting import Fitted, as_torch, fit_rows
from mn_lightning.kernels.cpu.layout import torch_type
from mn_lightning.kernels.cpu.learned import Learned
from mn_lightning.kernels.cpu.queue import taken
from mn_lightning.kernels.cpu.rows import Rows, rows_of_activation
from mn_lightning.kernels.inner_graph import differentiable_gradients, wants_gradients
from mn_lightning.kernels.types import FitOptions, Mixture, NormOptions
from mn_lightning.utils.precision import full_precision
from mn_lightning.utils.random import Stream

Arrays = tuple[np.ndarray, ...]
Parameters = tuple[Tensor | None, ...]

FARTHEST = 10.0
"""Variances of components whose means are more standard deviations than this away from the rows' are taken anew."""


def fit_and_normalize(
    x: Tensor, mixture: Mixture | FitOptions, gamma: Tensor | None, beta: Tensor | None, options: NormOptions
) -> tuple[Tensor, Mixture]:
    """Normalize an activation ``(N, C, *)`` under a mixture (Eqs. 31-38), or under one that is fitted to it.

    Returns:
        The normalized activation; the mixture, weights ``(K,)``, means and variances ``(K, C)``.
    """
    rows, wanted = rows_of_activation(x), wants_gradients(x, gamma, beta)
    if isinstance(mixture, FitOptions):
        fitted = _fit(rows, mixture, options.eps)
        given: Arrays = (fitted.weights, fitted.means, fitted.variances)
        mixture = Mixture(*(torch.from_numpy(values) for values in given))
    else:
        number = torch_type(rows.values.dtype)
        # A copy if there will be a backward pass: a refit may come before it.
        given = tuple(values.detach().to(number, copy=wanted).contiguous().numpy() for values in mixture)
    if not options.training and not wanted:
        return _evaluate(x, rows, given, (gamma, beta), options), mixture
    y: Tensor = _Normalize.apply(x, rows, given, options, wanted, gamma, beta)
    return y, mixture


@as_torch
def _fit(rows: Rows, how: FitOptions, eps: float) -> Fitted:
    n_em, step = how.em_iters // 2, int(how.step)
    if how.fit_rows is not None and how.fit_rows < rows.count:
        rows = Rows(taken(rows.values, step, Stream.FIT_ROWS, how.fit_rows))
    return fit_rows(rows, how.n_components, how.em_iters - n_em, n_em, step, eps)


class _Maps:
    """What the loops take for act((x - center) slope + level), summed with weights ν factor.

    Args:
        mean: ``(K, D)``, relative to a center.
        var: ``(K, D)``.
        weights: λ, ``(K,)``.
        parameters: γ and β, ``(D,)``, or None.
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
        self.learned = Learned(parameters, (1.0, 0.0), mean.shape[1], mean.dtype)
        leak = leak_of(options.activation)
        self.leak = None if leak is None else mean.dtype.type(leak)
        self.early, self.factor = np.empty_like(weights), np.empty_like(weights)
        loops.factors(weights, options.scale == "sqrt", leak is None, self.early, self.factor)
        self.slope, self.level = np.empty_like(mean), np.empty_like(mean)
        self.components = (0,) * len(mean)
        loops.maps(*self._given(), self.slope, self.level)

    def _given(self) -> tuple[Any, ...]:
        return self.mean, self.var, *self.learned.arrays, self.inside, self.eps, self.early

    def backward(
        self, sums: np.ndarray, counts: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, list[Tensor | None]]:
        """What goes to the rows through the moments, and the gradients of the parameters.

        Args:
            sums: gradients of slope and level, ``(2, K, D)``.
            counts: Σν, ``(K,)``, if the moments are those of the rows.

        Returns:
            ``by_x`` and ``constant``, ``(K, D)``: what each row gets is ν_k ((x - center) by_x_k + constant_k).
        """
        by_x, constant, found = np.empty_like(self.mean), np.empty_like(self.mean), self.learned.empty()
        of_moments = np.zeros(len(self.mean)) if counts is None else counts
        self.loops.gradients(*self._given(), sums, of_moments, by_x, constant, *found)
        return by_x, constant, self.learned.gradients(found)


@torch.no_grad()
def _evaluate(x: Tensor, rows: Rows, mixture: Arrays, parameters: Parameters, options: NormOptions) -> Tensor:
    weights, means, variances = mixture
    density = rows.density(weights, means, variances, options.eps)
    center = (weights[:, None] * means).sum(0)
    maps = _Maps(means - center, variances, weights, parameters, options)
    y = layout.empty_like(x)
    arrays = center, maps.slope, maps.level, maps.factor, maps.leak, rows.array(y), rows.length
    rows.run(rows.loops.evaluate, maps.components, *density, *arrays)
    return y


class _Batch:
    """Posteriors of the rows, and what they are normalized with.

    Attributes:
        nu: ``(blocks, K, length)``.
        counts: Σν, ``(K,)``; not used outside training.
        center: ``(D,)``, what x is taken relative to: about its mean.
        mean: ``(K, D)``, relative to ``center``.
        var: ``(K, D)``.
        weights: ``(K,)``.
    """

    def __init__(self, rows: Rows, mixture: Arrays, options: NormOptions) -> None:
        self.weights, means, self.var = mixture
        density = rows.density(self.weights, means, self.var, options.eps)
        self.nu = rows.empty_posteriors(len(self.weights))
        self.center = (self.weights[:, None] * means).sum(0)
        given = rows.shared.POSTERIOR, density, self.center, self.nu.numpy()
        self.counts, sums = rows.sums(*given)
        if not options.training:
            self.mean = means - self.center
            return
        if rows.shared.drop(self.counts, options.min_weight, density.constant):
            self.counts, sums = rows.sums(*given)
        self.weights, self.mean, self.var = np.empty_like(self.weights), np.empty_like(means), np.empty_like(means)
        if rows.shared.moments(self.counts, sums, FARTHEST, options.eps, self.weights, self.mean, self.var):
            off = (self.weights[:, None] * self.mean).sum(0)
            self.center, self.mean = self.center + off, self.mean - off
            sums = rows.in_cuts(rows.loops.deviations, means.shape, self.nu.numpy(), self.center, self.mean)
            rows.shared.deviations(sums, self.counts, self.mean, self.var)


def _by_formula(x: Tensor, mixture: Arrays, parameters: Parameters, options: NormOptions) -> Tensor:
    """The same by differentiable operations."""
    rows = x.unsqueeze(0).unsqueeze(0) if x.dim() == 2 else x.flatten(2).mT.unsqueeze(0)
    gamma, beta = (None if value is None else value.reshape(1, 1, -1).to(x.dtype) for value in parameters)
    given = (torch.from_numpy(values).unsqueeze(0) for values in mixture)
    y = reference.mixture_norm(rows, Mixture(*given), gamma, beta, options).squeeze(0)
    return y.squeeze(0) if x.dim() == 2 else y.mT.reshape(x.shape)


class _Normalize(torch.autograd.Function):
    """y_i = Σ_k ν_ik (x_i slope_k + offset_k), or with an activation inside the sum over k (Eq. 38).

    In training, gradients flow through the moments of ``x`` under ν, but not through ν.
    """

    @staticmethod
    @as_torch
    def forward(
        ctx: Any, x: Tensor, rows: Rows, mixture: Arrays, options: NormOptions, wanted: bool, *parameters: Tensor | None
    ) -> Tensor:
        batch = _Batch(rows, mixture, options)
        maps = _Maps(batch.mean, batch.var, batch.weights, parameters, options)
        y = layout.empty_like(x)
        arrays = batch.nu.numpy(), batch.center, maps.slope, maps.level, maps.factor, maps.leak, rows.array(y)
        rows.run(rows.loops.normalize, maps.components, *arrays)
        if wanted:
            ctx.save_for_backward(x, batch.nu, *parameters)
            ctx.given, ctx.options, ctx.maps = mixture, options, maps
            ctx.center, ctx.counts = batch.center, batch.counts if options.training else None
        return y

    @staticmethod
    @full_precision
    @as_torch
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, nu, *parameters = ctx.saved_tensors
        (dy,) = grads
        if torch.is_grad_enabled():
            y = _by_formula(x, ctx.given, parameters, ctx.options)
            dx, *of_parameters = differentiable_gradients(y, dy, (x, *parameters))
            return (dx, None, None, None, None, *of_parameters)
        rows, maps = rows_of_activation(x), ctx.maps
        upper, posteriors = rows.array(dy), nu.numpy()
        arrays = upper, posteriors, ctx.center, maps.slope, maps.level, maps.factor, maps.leak
        sums = rows.in_cuts(rows.loops.gradient_sums, maps.slope.shape, maps.components, *arrays)
        by_x, constant, of_parameters = maps.backward(sums, ctx.counts)
        if not ctx.needs_input_grad[0]:
            return (None, None, None, None, None, *of_parameters)
        dx = layout.empty_like(x)
        rows.run(rows.loops.gradient, maps.components, *arrays, by_x, constant, rows.array(dx))
        return (dx, None, None, None, None, *of_parameters)
