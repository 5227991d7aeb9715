"""MixtureNorm's normalization on CPUs, piece by piece: two readings of the activation forward, of x and dy backward."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mn_lightning.kernels.pieces import Buffer, Place, blend, places, take, with_squares
from mn_lightning.utils.precision import full_precision
from mn_lightning.kernels.inner_graph import ThinGraph, differentiable_gradients, wants_gradients

Activation = Callable[[Tensor], Tensor]
Head = Callable[..., tuple[Tensor, Tensor]]
Plain = Callable[..., Tensor]


class Claims(NamedTuple):
    """How much of each row each component has: ν ``(1, B, M, K)``, Σ_i ν_ik ``(1, K)`` and 1/√λ_k ``(1, K)``."""

    nu: Tensor
    counts: Tensor
    factor: Tensor


def has_parameters(activation: Activation | None) -> bool:
    """Whether an activation learns, so that its gradient cannot be left out."""
    return isinstance(activation, nn.Module) and any(True for _ in activation.parameters())


class _Writer:
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
        claims: Claims,
        moments: tuple[Tensor, Tensor],
        head: Head,
        plain: Plain,
        activation: Activation | None,
        through_moments: bool,
        wanted: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, *claims, *parameters)
        ctx.plain, ctx.activation, ctx.through_moments = plain, activation, through_moments
        ctx.thin = ThinGraph(head, moments, parameters, wanted)
        y = torch.empty_like(x)
        shares = claims.nu.mT
        slope, offset = ctx.thin.outputs
        write = _Writer(x, slope, offset, activation, claims.factor)
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
        slope, offset = ctx.thin.outputs
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
        moments, of_parameters = ctx.thin.backward(*dmaps.split(x.shape[-1], dim=-1))
        if not ctx.needs_input_grad[0]:
            return (None, *(None for _ in range(7)), *of_parameters)
        maps = [slope] if ctx.activation is None else []
        if ctx.through_moments:
            dmean, dvar = moments
            total = counts.clamp_min(torch.finfo(counts.dtype).tiny).unsqueeze(-1)
            mean = ctx.thin.moments[0].detach()
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


def normalize(
    x: Tensor,
    claims: Claims,
    moments: tuple[Tensor, Tensor],
    head: Head,
    plain: Plain,
    activation: Activation | None,
    through_moments: bool,
    parameters: tuple[Tensor | None, ...],
) -> Tensor:
    """Σ_k ν_ik (x_i slope_k + offset_k), with gradients for ``x`` and ``parameters``, none for ν.

    Args:
        x: ``(1, B, M, D)``.
        claims: of its rows.
        moments: mean and variance of each component, ``(1, K, D)``.
        head: of ``moments`` and ``parameters``, returns slope and offset, ``(1, K, D)``.
        plain: of ``x`` and ``parameters``, the same normalization in operations that can be differentiated twice.
        activation: applied to each x_i slope_k + offset_k, whose sum is then weighted with 1/√λ_k too.
        through_moments: whether ``moments`` are those of ``x`` under ν.
        parameters: what ``head`` takes.
    """
    wanted = wants_gradients(x, *parameters)
    y: Tensor = _Normalize.apply(x, claims, moments, head, plain, activation, through_moments, wanted, *parameters)
    return y


@torch.no_grad()
def evaluate(
    x: Tensor,
    posteriors: Callable[[Place, Tensor], Tensor],
    slope: Tensor,
    offset: Tensor,
    activation: Activation | None,
    factor: Tensor,
    origin: Tensor,
) -> Tensor:
    """Σ_k ν_ik (x_i slope_k + offset_k) in one reading, for nobody who wants gradients.

    Args:
        x: ``(1, B, M, D)``.
        posteriors: of a piece of ``x``, relative to ``origin`` and with its squares.
        slope: ``(1, K, D)``.
        offset: ``(1, K, D)``, for x relative to ``origin``.
        activation: as in :func:`normalize`.
        factor: 1/√λ_k, ``(1, K)``, for the sum over activations.
        origin: ``(1, 1, D)``.
    """
    y = torch.empty_like(x)
    write = _Writer(x, slope, offset, activation, factor)
    for place, z in with_squares(x, origin):
        write(z[:, :, : x.shape[-1]], posteriors(place, z), take(y, place))
    return y
