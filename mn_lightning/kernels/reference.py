"""Mixture normalization of rows ``(G, B, M, D)``: with operations on all rows at once, and on CPUs piece by piece."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mn_lightning import gmm
from mn_lightning.kernels.autograd import piecewise_affine, weighted_moments
from mn_lightning.kernels.cpu.mixture import Claims, evaluate, normalize
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.kernels.inner_graph import wants_gradients
from mn_lightning.gmm import Mixture

Affine = Literal["output", "component"]
Scale = Literal["sqrt", "unit"]
Activation = Callable[[Tensor], Tensor]

MOMENT_TOLERANCE = 1e-5
"""Relative error of a variance, from rounding, beyond which it is taken around its own mean in a reading of its own."""


def origin_of(mixture: Mixture) -> Tensor:
    """The mixture's mean, ``(G, 1, D)``: taken relative to it, a large common offset of the rows costs no digits."""
    return (mixture.weights.unsqueeze(-1) * mixture.means).sum(1, keepdim=True)


def moved(mixture: Mixture, by: Tensor) -> Mixture:
    return Mixture(mixture.weights, mixture.means + by, mixture.variances)


def batch_moments(x: Tensor, nu: Tensor, counts: Tensor, processes: Processes) -> tuple[Tensor, Tensor]:
    total = counts.clamp_min(torch.finfo(counts.dtype).tiny)
    return weighted_moments(x, nu / total[:, None, None], processes)


def share_of(counts: Tensor) -> Tensor:
    """λ from the sum of ν over the rows; they add up to the number of rows."""
    return counts / counts.sum(-1, keepdim=True)


class Reading(NamedTuple):
    """Which of the papers' readings to compute: the arguments of :func:`mixture_norm` of these names."""

    training: bool
    eps: float
    affine: Affine
    scale: Scale
    activation: Activation | None
    min_weight: float

    def maps(
        self, mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Slope and intercept of each component's map of a row, ``(G, K, D)``, and what is added to their sum."""
        if self.affine == "component":
            mean = mean if beta is None else mean + beta
            var = var if gamma is None else var * gamma
            gamma = beta = None
        slope = (var + self.eps).rsqrt()
        if gamma is not None:
            slope = slope * gamma
        return slope, -mean * slope, beta

    def factor(self, share: Tensor) -> Tensor:
        """1/√λ_k, ``(G, K)``; 1 for a component that is not in use."""
        return torch.where(share > 0, share, 1).rsqrt() if self.scale == "sqrt" else torch.ones_like(share)


def at_once(
    x: Tensor, mixture: Mixture, gamma: Tensor | None, beta: Tensor | None, reading: Reading, processes: Processes
) -> Tensor:
    """Compute :func:`mixture_norm` with operations on all rows ``(G, B, M, D)`` at once."""
    origin = origin_of(mixture)
    mixture = moved(mixture, -origin)
    x = x - origin.unsqueeze(1)
    with torch.no_grad():
        if reading.training:
            joint = gmm.log_joint(x.detach(), mixture, reading.eps)
            nu, counts = gmm.prune(joint, reading.min_weight, processes)
        else:
            nu = gmm.posteriors(x.detach(), mixture, reading.eps)
    moments = Mixture(share_of(counts), *batch_moments(x, nu, counts, processes)) if reading.training else mixture
    return _normalize(x, nu, *moments, gamma, beta, reading)


def _normalize(
    x: Tensor,
    nu: Tensor,
    share: Tensor,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    reading: Reading,
) -> Tensor:
    nu = nu * reading.factor(share)[:, None, None]
    slope, intercept, beta = reading.maps(mean, var, gamma, beta)
    if beta is None:
        beta = slope.new_zeros(())
    if reading.activation is None:
        return piecewise_affine(x, nu, slope, intercept, beta.expand(slope.shape[0], 1, slope.shape[2]))
    intercept = intercept + beta
    y = torch.zeros_like(x)
    for k in range(nu.shape[-1]):
        pre = torch.addcmul(intercept[:, None, k : k + 1], x, slope[:, None, k : k + 1])
        y = y + nu[..., k : k + 1] * reading.activation(pre)
    return y


def in_pieces(x: Tensor, mixture: Mixture, gamma: Tensor | None, beta: Tensor | None, reading: Reading) -> Tensor:
    """Compute :func:`mixture_norm` as :mod:`mn_lightning.kernels.cpu.mixture` does it."""
    origin = origin_of(mixture)
    centred = moved(mixture, -origin)

    def head(
        factor: Tensor, mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        slope, intercept, beta = reading.maps(mean, var, gamma, beta)
        if reading.activation is None:
            slope, intercept = slope * factor.unsqueeze(-1), intercept * factor.unsqueeze(-1)
        return slope, intercept if beta is None else intercept + beta  # Σ_k ν_k is 1

    if not reading.training and not wants_gradients(x, gamma, beta):
        factor = reading.factor(mixture.weights)
        slope, offset = head(factor, centred.means, centred.variances, gamma, beta)
        posteriors = gmm.Posteriors(centred, reading.eps)
        return evaluate(x, posteriors, slope, offset, reading.activation, factor, origin)
    with torch.no_grad():
        detached = x.detach()
        if reading.training:
            nu, sums = gmm.claims(detached, centred, reading.eps, reading.min_weight, origin)
            counts = sums.counts
            share, mean, var = share_of(counts), *_moments_of(detached, nu, sums, origin, reading.eps)
        else:
            nu = gmm.posteriors(detached, centred, reading.eps, origin)
            counts = mixture.weights
            share, mean, var = mixture
        factor = reading.factor(share)

    def plain(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        x = x - origin.unsqueeze(1)
        moments = batch_moments(x, nu, counts, ALONE) if reading.training else centred[1:]
        return _normalize(x, nu, share, *moments, gamma, beta, reading)

    claims, maps = Claims(nu, counts, factor), partial(head, factor)
    return normalize(x, claims, (mean, var), maps, plain, reading.activation, reading.training, (gamma, beta))


def _moments_of(x: Tensor, nu: Tensor, sums: gmm.Sums, origin: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of each component, from sums around the origin if no digits are lost that way."""
    total = sums.counts.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    mean, square = sums.first / total, sums.second / total
    var = square - mean.square()
    if ((square * torch.finfo(x.dtype).eps) > MOMENT_TOLERANCE * (var + eps)).any():
        mean, var = batch_moments(x - origin.unsqueeze(1), nu, sums.counts, ALONE)
    return mean + origin, var
