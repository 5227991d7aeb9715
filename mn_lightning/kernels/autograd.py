"""The differentiable pieces of the norms, with backward passes that save nothing K-fold and know no autocast.

Lightning calls ``manual_backward`` inside ``training_step``, and gradient penalties are taken there: autocast is on,
and lowers the precision of the backward passes of torch's own matrix products. The backward passes here consist of
differentiable operations on inputs and outputs, so that second derivatives (gradient penalties) work too.

``torch.func.vmap`` and forward-mode derivatives know torch's operations and no backward pass by hand: they get the
formulas as they are.
"""

from typing import Any

import torch
from torch import Tensor

from mn_lightning.kernels.transforms import maps_over_samples, takes_tangents
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.precision import full_precision


def _mix(w: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """Σ_k w_ik values_kd for every row, ``(G, B, M, K), (G, K, D) -> (G, B, M, D)``.

    The result has the strides of ``like``: elementwise work on mixed strides is slow and loses the memory format.
    """
    values = values.unsqueeze(1)
    if like.stride(-1) == 1:
        return w @ values
    return (values.mT @ w.mT).mT


def _moments(x: Tensor, weights: Tensor, processes: Processes) -> tuple[Tensor, Tensor]:
    (mean,) = processes.sum((weights.mT @ x).sum(1))
    var = [
        (weights[..., k : k + 1].mT @ (x - mean[:, None, k : k + 1]).square()).sum(1) for k in range(weights.shape[-1])
    ]
    (var_of_all,) = processes.sum(torch.cat(var, dim=1))
    return mean, var_of_all


def _affine(x: Tensor, w: Tensor, slope: Tensor, intercept: Tensor, bias: Tensor) -> Tensor:
    return torch.addcmul(_mix(w, intercept, x) + bias.unsqueeze(1), x, _mix(w, slope, x))


def _by_formula() -> bool:
    return takes_tangents() or maps_over_samples()


class _MatMul(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        (grad,) = grads
        da = grad @ b.mT if ctx.needs_input_grad[0] else None
        db = a.mT @ grad if ctx.needs_input_grad[1] else None
        return da, db


class _WeightedMoments(torch.autograd.Function):
    """Mean and biased variance of rows under weights that sum to 1 for each component.

    ``x (G, B, M, D), weights (G, B, M, K) -> mean, var (G, K, D)``. The variance is taken around the mean, one
    component at a time: E[x²] - E[x]² would lose all digits of components that are narrow and far apart, and
    doing all at once would need a K-fold copy of ``x``.
    """

    @staticmethod
    def forward(x: Tensor, weights: Tensor, processes: Processes) -> tuple[Tensor, Tensor]:
        (mean,) = processes.sum((weights.mT @ x).sum(1))
        var = [
            (weights[..., k : k + 1].mT @ (x - mean[:, None, k : k + 1]).square_()).sum(1)
            for k in range(weights.shape[-1])
        ]
        (var_of_all,) = processes.sum(torch.cat(var, dim=1))
        return mean, var_of_all

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Processes], output: tuple[Tensor, Tensor]) -> None:
        x, weights, ctx.processes = inputs
        ctx.save_for_backward(x, weights, *output)

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, mean, _ = ctx.saved_tensors
        grad_mean, grad_var = ctx.processes.sum(*grads)
        dx = dw = None
        # var depends on mean only through the sum of weighted deviations from it, which is zero.
        shift = grad_mean - 2 * grad_var * mean
        if ctx.needs_input_grad[0]:
            slope = _mix(weights, 2 * grad_var, x)
            dx = torch.addcmul(_mix(weights, shift, x), x, slope)
        if ctx.needs_input_grad[1]:
            constant = (grad_var * mean.square()).sum(-1)[:, None, None]
            dw = x @ shift.mT.unsqueeze(1) + x.square() @ grad_var.mT.unsqueeze(1) + constant
        return dx, dw, None


class _PiecewiseAffine(torch.autograd.Function):
    """y_i = x_i Σ_k w_ik slope_k + Σ_k w_ik intercept_k + bias, saving ``x`` and the thin ``w`` alone.

    ``x (G, B, M, D), w (G, B, M, K), slope and intercept (G, K, D), bias (G, 1, D)``. No gradient flows into ``w``.
    """

    @staticmethod
    def forward(x: Tensor, w: Tensor, slope: Tensor, intercept: Tensor, bias: Tensor) -> Tensor:
        offset = _mix(w, intercept, x).add_(bias.unsqueeze(1))
        return torch.addcmul(offset, x, _mix(w, slope, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, w, slope, _, _ = inputs
        ctx.save_for_backward(x, w, slope)

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, w, slope = ctx.saved_tensors
        (dy,) = grads
        dx = dy * _mix(w, slope, x) if ctx.needs_input_grad[0] else None
        d_slope = (w.mT @ (dy * x)).sum(1) if ctx.needs_input_grad[2] else None
        d_intercept = (w.mT @ dy).sum(1) if ctx.needs_input_grad[3] else None
        d_bias = dy.sum((1, 2)).unsqueeze(1) if ctx.needs_input_grad[4] else None
        return dx, None, d_slope, d_intercept, d_bias


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of two matrices."""
    product: Tensor = a @ b if _by_formula() else _MatMul.apply(a, b)
    return product


def weighted_moments(x: Tensor, weights: Tensor, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``(G, K, D)`` of rows ``(G, B, M, D)`` under weights ``(G, B, M, K)`` that sum to 1.

    With several processes, each passes its own rows and weights, and these sum to 1 over all of them.
    """
    mean, var = (_moments if _by_formula() else _WeightedMoments.apply)(x, weights, processes)
    return mean, var


def piecewise_affine(x: Tensor, w: Tensor, slope: Tensor, intercept: Tensor, bias: Tensor) -> Tensor:
    """y_i = x_i Σ_k w_ik slope_k + Σ_k w_ik intercept_k + bias; shapes as in :class:`_PiecewiseAffine`."""
    y: Tensor = (_affine if _by_formula() else _PiecewiseAffine.apply)(x, w, slope, intercept, bias)
    return y
