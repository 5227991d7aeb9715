"""The passes over rows on CPUs, piece by piece: two passes over the activation forward, two over x and dy backward."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.density import LogJoint, kept, log_joint, prune
from mn_lightning.kernels.inner_graph import InnerGraph, differentiable_gradients, wants_gradients
from mn_lightning.kernels.pieces import Buffer, Place, blend, in_blocks, places, take, with_squares
from mn_lightning.kernels.types import Activation, Head, Mixture, NormOptions, Sums, mean_of, weights_of
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.precision import full_precision

MOMENT_TOLERANCE = 1e-5
"""Relative error of a variance, from rounding, beyond which it is taken around its own mean in a pass of its own."""

Pass = Callable[[Place, Tensor], Tensor]
"""From a piece of the rows with its squares, ``(1, b, 2D, m)``, to posteriors, ``(1, b, K, m)``."""


def lloyd_sums(x: Tensor, centers: Tensor, origin: Tensor | None = None, processes: Processes = ALONE) -> Sums:
    """Assign each row to its nearest centre, and sum up the rows of each."""
    centers = centers.unsqueeze(1)
    half_norm = centers.square().sum(-1, keepdim=True) / 2

    def nearest(_: Place, z: Tensor) -> Tensor:
        affinity = centers @ z[:, :, : centers.shape[-1]] - half_norm
        found = (affinity == affinity.amax(2, keepdim=True)).to(z.dtype)
        return found * (found.cumsum(2) <= 1)

    return Sums(*processes.sum(*_sums(in_blocks(x), origin, nearest)))


def em_sums(
    x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None = None, processes: Processes = ALONE
) -> Sums:
    """Sum up the rows under their posteriors (Eq. 31)."""
    log_joint_of = LogJoint(mixture, reg_covar)
    return Sums(*processes.sum(*_sums(in_blocks(x), origin, lambda _, z: log_joint_of.posteriors(z))))


def _sums(x: Tensor, origin: Tensor | None, posteriors: Pass) -> Sums:
    parts = []
    for place, z in with_squares(x, origin):
        nu = posteriors(place, z)
        parts.append((nu.sum((1, 3)), (nu @ z.mT).sum(1)))
    counts, moments = (torch.stack(values).sum(0) for values in zip(*parts, strict=True))
    return Sums(counts, *moments.chunk(2, dim=-1))


def mixture_norm(
    x: Tensor,
    mixture: Mixture,
    gamma: Tensor | None,
    beta: Tensor | None,
    options: NormOptions,
    processes: Processes = ALONE,
) -> Tensor:
    """Normalize rows ``(1, B, M, D)`` under a mixture (Eqs. 31-38)."""
    shape, x = x.shape, in_blocks(x)
    origin = mean_of(mixture)
    centred = mixture._replace(means=mixture.means - origin)

    def head(
        factor: Tensor, mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        slope, intercept, beta = options.maps(mean, var, gamma, beta)
        if options.activation is None:
            slope, intercept = slope * factor.unsqueeze(-1), intercept * factor.unsqueeze(-1)
        return slope, intercept if beta is None else intercept + beta  # Σ_k ν_k is 1

    if not options.training and not wants_gradients(x, gamma, beta):
        factor = options.factor(mixture.weights)
        slope, offset = head(factor, centred.means, centred.variances, gamma, beta)
        return _evaluate(x, LogJoint(centred, options.eps), slope, offset, options.activation, factor, origin).view(
            shape
        )
    with torch.no_grad():
        detached = x.detach()
        if options.training:
            nu, sums = _posteriors_and_sums(detached, centred, options.eps, options.min_weight, origin)
            counts = sums.counts
            weights, mean, var = weights_of(counts), *_moments_of(detached, nu, sums, origin, options.eps)
        else:
            nu = _posteriors(detached, centred, options.eps, origin)
            counts = mixture.weights
            weights, mean, var = mixture
        factor = options.factor(weights)

    def plain(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        x = x - origin.unsqueeze(1)
        moments = reference.batch_moments(x, nu, counts) if options.training else centred[1:]
        return reference.normalize(x, nu, Mixture(weights, *moments), gamma, beta, options)

    parameters = (gamma, beta)
    y: Tensor = _Normalize.apply(
        x,
        _Posteriors(nu, counts, factor),
        (mean, var),
        partial(head, factor),
        plain,
        options.activation,
        options.training,
        wants_gradients(x, *parameters),
        *parameters,
    )
    return y.view(shape)


class _Posteriors(NamedTuple):
    """ν ``(1, B, M, K)``, Σ_i ν_ik ``(1, K)`` and 1/√λ_k ``(1, K)``."""

    nu: Tensor
    counts: Tensor
    factor: Tensor


def _posteriors_and_sums(
    x: Tensor, mixture: Mixture, reg_covar: float, min_weight: float, origin: Tensor
) -> tuple[Tensor, Sums]:
    """What :func:`prune` makes of the rows' posteriors, and the sums under them.

    It takes one pass over the rows, and more only if a component has to be dropped.
    """
    log_joint_of = LogJoint(mixture, reg_covar)
    nu = x.new_empty(x.shape[0], x.shape[1], mixture.weights.shape[-1], x.shape[2])

    def posterior(place: Place, z: Tensor) -> Tensor:
        part = log_joint_of(z).softmax(2)
        nu[:, place[0], :, place[1]] = part
        return part

    sums = _sums(x, origin, posterior)
    if not kept(sums.counts, min_weight).all():
        nu = prune(log_joint(x, mixture, reg_covar, origin), min_weight)[0].mT
        sums = _sums(x, origin, lambda place, _: nu[:, place[0], :, place[1]])
    return nu.mT, sums


def _posteriors(x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor) -> Tensor:
    log_joint_of = LogJoint(mixture, reg_covar)
    nu = x.new_empty(x.shape[0], x.shape[1], mixture.weights.shape[-1], x.shape[2])
    for (blocks, rows), z in with_squares(x, origin):
        nu[:, blocks, :, rows] = log_joint_of.posteriors(z)
    return nu.mT


def _moments_of(x: Tensor, nu: Tensor, sums: Sums, origin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of each component, from sums around the origin if no digits are lost that way."""
    total = sums.counts.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    mean, square = sums.first / total, sums.second / total
    var = square - mean.square()
    if ((square * torch.finfo(x.dtype).eps) > MOMENT_TOLERANCE * (var + eps)).any():
        mean, var = reference.batch_moments(x - origin.unsqueeze(1), nu, sums.counts)
    return mean + origin, var


class _BlendAffine:
    """Σ_k ν_k act(x slope_k + offset_k) for one piece after the other, all with their features first."""

    def __init__(self, x: Tensor, slope: Tensor, offset: Tensor, activation: Activation | None, factor: Tensor) -> None:
        self.slope, self.offset, self.activation, self.factor = slope, offset, activation, factor
        self.maps = torch.cat([slope, offset], dim=-1)
        self.buffer = Buffer(x, 2)

    def __call__(self, x: Tensor, share: Tensor, out: Tensor) -> None:
        first, second, both = self.buffer.like(x)
        if self.activation is None:
            blend(share, self.maps, out=both)
            torch.addcmul(second, x, first, out=out)
            return
        for k in range(self.maps.shape[1]):
            active = self.activation(_before(x, self.slope, self.offset, k, out=first))
            weight = share[:, :, k : k + 1] * self.factor[0, k]
            if k == 0:
                torch.mul(active, weight, out=out)
            else:
                out.add_(torch.mul(active, weight, out=second))


class _Normalize(torch.autograd.Function):
    """y_i = Σ_k ν_ik (x_i slope_k + offset_k), or with an activation inside the sum over k (Eq. 38).

    ``head(mean, var, *parameters)`` makes slope and offset, ``(1, K, D)``, of the moments. Where these are the moments
    of ``x`` itself under ν, gradients flow through them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        posteriors: _Posteriors,
        moments: tuple[Tensor, Tensor],
        head: Head,
        plain: Callable[..., Tensor],
        activation: Activation | None,
        through_moments: bool,
        wanted: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, *posteriors, *parameters)
        ctx.plain, ctx.activation, ctx.through_moments = plain, activation, through_moments
        ctx.inner = InnerGraph(head, moments, parameters, wanted)
        y = torch.empty_like(x)
        shares = posteriors.nu.mT
        slope, offset = ctx.inner.outputs
        write = _BlendAffine(x, slope, offset, activation, posteriors.factor)
        for place in places(x):
            write(take(x, place), shares[:, place[0], :, place[1]], take(y, place))
        return y

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, nu, counts, factor, *parameters = ctx.saved_tensors
        (dy,) = grads
        if torch.is_grad_enabled():
            dx, *of_parameters = differentiable_gradients(ctx.plain(x, *parameters), dy, (x, *parameters))
            return (dx, *(None for _ in range(7)), *of_parameters)
        shares = nu.mT
        slope, offset = ctx.inner.outputs
        dx = torch.empty_like(x)
        dmaps = x.new_zeros(*slope.shape[:2], 2 * slope.shape[2])
        buffer = Buffer(x, 3)
        for place in places(x):
            piece, grad, share = take(x, place), take(dy, place), shares[:, place[0], :, place[1]]
            if ctx.activation is None:
                pair = buffer.like(piece, 2)
                torch.mul(piece, grad, out=pair[0])
                pair[1].copy_(grad)
                dmaps += (share @ pair[-1].mT).sum(1)
                continue
            pre, scaled, product, _ = buffer.like(piece)
            into = take(dx, place)
            for k in range(nu.shape[-1]):
                torch.mul(grad, share[:, :, k : k + 1] * factor[0, k], out=scaled)
                dpre = _through(ctx.activation, _before(piece, slope, offset, k, out=pre), scaled)
                dmaps[:, k] += torch.cat([torch.mul(dpre, piece, out=product).sum((1, 3)), dpre.sum((1, 3))], dim=-1)
                if k == 0:
                    torch.mul(dpre, slope[:, None, 0, :, None], out=into)
                else:
                    into.add_(torch.mul(dpre, slope[:, None, k, :, None], out=product))
        moments, of_parameters = ctx.inner.backward(*dmaps.split(x.shape[-1], dim=-1))
        if not ctx.needs_input_grad[0]:
            return (None, *(None for _ in range(7)), *of_parameters)
        maps = [slope] if ctx.activation is None else []
        if ctx.through_moments:
            dmean, dvar = moments
            total = counts.clamp_min(torch.finfo(counts.dtype).tiny).unsqueeze(-1)
            mean = ctx.inner.moments[0].detach()
            # var depends on mean only through the sum of weighted deviations from it, which is zero.
            maps += [2 * dvar / total, (dmean - 2 * dvar * mean) / total]
        if not maps:
            return (dx, *(None for _ in range(7)), *of_parameters)
        joined = torch.cat(maps, dim=-1)
        for place in places(x):
            piece, grad, result = take(x, place), take(dy, place), take(dx, place)
            *parts, whole = buffer.like(piece, len(maps))
            blend(shares[:, place[0], :, place[1]], joined, out=whole)
            if ctx.activation is not None:
                result.addcmul_(piece, parts[0]).add_(parts[1])
            elif ctx.through_moments:
                torch.addcmul(parts[2], piece, parts[1], out=result)
                result.addcmul_(grad, parts[0])
            else:
                torch.mul(grad, parts[0], out=result)
        return (dx, *(None for _ in range(7)), *of_parameters)


def _before(x: Tensor, slope: Tensor, offset: Tensor, k: int, out: Tensor) -> Tensor:
    """What goes into the activation for component k; ``x`` has its features first."""
    torch.mul(x, slope[:, None, k, :, None], out=out)
    return out.add_(offset[:, None, k, :, None])


def _through(activation: Activation, pre: Tensor, grad: Tensor) -> Tensor:
    with torch.enable_grad():
        pre = pre.detach().requires_grad_()
        return torch.autograd.grad(activation(pre), pre, grad)[0]


@torch.no_grad()
def _evaluate(
    x: Tensor,
    log_joint_of: LogJoint,
    slope: Tensor,
    offset: Tensor,
    activation: Activation | None,
    factor: Tensor,
    origin: Tensor,
) -> Tensor:
    """Σ_k ν_ik (x_i slope_k + offset_k) in one pass, for nobody who wants gradients.

    Args:
        x: ``(1, B, M, D)``.
        log_joint_of: of a piece of ``x``, relative to ``origin`` and with its squares.
        slope: ``(1, K, D)``.
        offset: ``(1, K, D)``, for x relative to ``origin``.
        activation: as in :class:`_Normalize`.
        factor: 1/√λ_k, ``(1, K)``, for the sum over activations.
        origin: ``(1, 1, D)``.
    """
    y = torch.empty_like(x)
    write = _BlendAffine(x, slope, offset, activation, factor)
    for place, z in with_squares(x, origin):
        write(z[:, :, : x.shape[-1]], log_joint_of.posteriors(z), take(y, place))
    return y
