"""ModeNorm's and ModeGroupNorm's large passes on CPUs, some samples at a time so that these stay in the cache.

Both norms are one affine map for each sample and channel, made of the means and variances of each sample's channels: x
is read twice forward, x and dy twice backward, and nothing as large as they are is made but the results.
"""

from typing import Any

import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.inner_graph import InnerGraph, differentiable_gradients, wants_gradients
from mn_lightning.kernels.pieces import Buffer, Place, take, whole_blocks
from mn_lightning.kernels.types import Head
from mn_lightning.utils.precision import full_precision


def sample_affine(x: Tensor, centred: bool, head: Head, parameters: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Map each sample and channel of ``(N, C, *)`` by what ``head`` makes of their moments over ``*``."""

    def plain(rows: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        y, *others = reference.sample_affine(rows.squeeze(0).mT, centred, head, parameters)
        return y.mT.unsqueeze(0), *others

    rows = x.flatten(2).mT.unsqueeze(0)
    wanted = wants_gradients(x, *parameters)
    y, *others = _SampleAffine.apply(rows, centred, head, plain, wanted, *parameters)
    return y.squeeze(0).mT.reshape(x.shape), *others


def _pooled_moments(x: Tensor, centred: bool) -> tuple[Tensor, ...]:
    """Mean over the pixels of each sample and channel, ``(N, C)``, and if ``centred`` is set their variance."""
    length = x.shape[2]
    buffer = Buffer(x, 1)
    pooled, within = [], []
    for place in whole_blocks(x):
        piece = take(x, place)
        mean = piece.sum(-1, keepdim=True) / length
        pooled.append(mean.flatten(0, 1).squeeze(-1))
        if centred:
            deviations, _ = buffer.like(piece)
            torch.sub(piece, mean, out=deviations)
            within.append(deviations.square_().sum(-1).squeeze(0) / length)
    return (torch.cat(pooled), torch.cat(within)) if centred else (torch.cat(pooled),)


def _column(values: Tensor, place: Place) -> Tensor:
    return values[place[0]].unsqueeze(0).unsqueeze(-1)


class _SampleAffine(torch.autograd.Function):
    """y_ncl = x_ncl slope_nc + offset_nc, with slope, offset, ... = head(pooled moments of x, *parameters)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centred: bool, head: Head, plain: Head, wanted: bool, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *parameters)
        ctx.plain = plain
        moments = _pooled_moments(x, centred)
        ctx.inner = InnerGraph(head, moments, parameters, wanted)
        slope, offset, *others = ctx.inner.outputs
        y = torch.empty_like(x)
        for place in whole_blocks(x):
            torch.addcmul(_column(offset, place), take(x, place), _column(slope, place), out=take(y, place))
        ctx.mark_non_differentiable(*others)
        return y, *others

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        dy = grads[0]
        if torch.is_grad_enabled():
            dx, *of_parameters = differentiable_gradients(ctx.plain(x, *parameters)[0], dy, (x, *parameters))
            return (dx, None, None, None, None, *of_parameters)
        buffer = Buffer(x, 1)
        dslope, doffset = [], []
        for place in whole_blocks(x):
            piece, grad = take(x, place), take(dy, place)
            product, _ = buffer.like(piece)
            dslope.append(torch.mul(piece, grad, out=product).sum(-1)[0])
            doffset.append(grad.sum(-1)[0])
        moments, of_parameters = ctx.inner.backward(torch.cat(dslope), torch.cat(doffset))
        if not ctx.needs_input_grad[0]:
            return (None, None, None, None, None, *of_parameters)
        dx = torch.empty_like(x)
        slope, pooled = ctx.inner.outputs[0], ctx.inner.moments[0].detach()
        constant, factor = moments[0] / x.shape[2], None
        if len(moments) == 2:
            # The variance depends on the mean only through the sum of deviations from it, which is zero.
            factor = moments[1] * (2 / x.shape[2])
            constant = constant - factor * pooled
        for place in whole_blocks(x):
            piece, grad, result = take(x, place), take(dy, place), take(dx, place)
            torch.addcmul(_column(constant, place), grad, _column(slope, place), out=result)
            if factor is not None:
                result.addcmul_(piece, _column(factor, place))
        return (dx, None, None, None, None, *of_parameters)
