"""The passes with torch's operations on all rows at once: for any device, compilers and second derivatives.

This is what the other backends are tested against, and what they leave to it.
"""

import torch
from torch import Tensor, nn

from mn_lightning.kernels.autograd import piecewise_affine, weighted_moments
from mn_lightning.kernels.density import log_joint, posteriors, prune
from mn_lightning.kernels.fitting import em, fit, lloyd
from mn_lightning.kernels.queue import all_finite, enqueue
from mn_lightning.kernels.types import Activation, Head, Mixture, NormOptions, mean_of, weights_of
from mn_lightning.utils.distributed import ALONE, Processes

__all__ = ["all_finite", "em", "enqueue", "fit", "lloyd", "mixture_norm", "sample_affine"]


def mixture_norm(
    x: Tensor,
    mixture: Mixture,
    gamma: Tensor | None,
    beta: Tensor | None,
    options: NormOptions,
    processes: Processes = ALONE,
) -> Tensor:
    """Normalize rows under a mixture (Eqs. 31-38), with gradients for ``x``, ``gamma`` and ``beta``.

    Args:
        x: ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        gamma: ``(G, 1, D)``.
        beta: ``(G, 1, D)``.
        options: which of the papers' formulas.
        processes: in training, those that hold the rows between them.

    Returns:
        Tensor of the shape of ``x``.
    """
    origin = mean_of(mixture)
    mixture = mixture._replace(means=mixture.means - origin)
    x = x - origin.unsqueeze(1)
    if not options.training:
        with torch.no_grad():
            nu = posteriors(x.detach(), mixture, options.eps)
        return normalize(x, nu, mixture, gamma, beta, options)
    with torch.no_grad():
        nu, counts = prune(log_joint(x.detach(), mixture, options.eps), options.min_weight, processes)
    moments = batch_moments(x, nu, counts, processes)
    return normalize(x, nu, Mixture(weights_of(counts), *moments), gamma, beta, options)


def batch_moments(x: Tensor, nu: Tensor, counts: Tensor, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Mean and variance of each component, ``(G, K, D)``, of rows under posteriors (Eqs. 35-36)."""
    total = counts.clamp_min(torch.finfo(counts.dtype).tiny)
    return weighted_moments(x, nu / total[:, None, None], processes)


def normalize(
    x: Tensor, nu: Tensor, moments: Mixture, gamma: Tensor | None, beta: Tensor | None, options: NormOptions
) -> Tensor:
    """Eqs. 34 and 37-38 for rows ``(G, B, M, D)`` with posteriors ``(G, B, M, K)``, under the ``moments`` given."""
    nu = nu * options.factor(moments.weights)[:, None, None]
    slope, intercept, beta = options.maps(moments.means, moments.variances, gamma, beta)
    if beta is None:
        beta = slope.new_zeros(())
    if options.activation is None:
        return piecewise_affine(x, nu, slope, intercept, beta.expand(slope.shape[0], 1, slope.shape[2]))
    intercept = intercept + beta
    y = torch.zeros_like(x)
    for k in range(nu.shape[-1]):
        before = torch.addcmul(intercept[:, None, k : k + 1], x, slope[:, None, k : k + 1])
        y = y + nu[..., k : k + 1] * _activated(options.activation, before)
    return y


def _activated(activation: Activation, x: Tensor) -> Tensor:
    """Call ``activation`` with parameters of the dtype of ``x``: a module of a layer in half precision has others."""
    if not isinstance(activation, nn.Module) or all(p.dtype == x.dtype for p in activation.parameters()):
        return activation(x)
    converted = {name: parameter.to(x.dtype) for name, parameter in activation.named_parameters()}
    y: Tensor = torch.func.functional_call(activation, converted, (x,))
    return y


def sample_affine(x: Tensor, centred: bool, head: Head, parameters: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Map each sample and channel of ``(N, C, *)`` by what ``head`` makes of their moments over ``*``.

    Args:
        x: ``(N, C, *)``.
        centred: whether ``head`` takes means and variances, or means alone.
        head: of the moments, ``(N, C)`` each, and ``parameters``; returns slope and offset, ``(N, C)``, and what is
            returned from here too, without a gradient.
        parameters: what ``head`` takes.

    Returns:
        x · slope + offset, and what else ``head`` returns.
    """
    moments: tuple[Tensor, ...]
    if not centred:
        moments = (x if x.dim() == 2 else x.mean(tuple(range(2, x.dim()))),)
    elif x.dim() == 2:
        moments = x, torch.zeros_like(x)
    else:
        moments = torch.var_mean(x, dim=tuple(range(2, x.dim())), correction=0)[::-1]
    slope, offset, *others = head(*moments, *parameters)
    shape = (*x.shape[:2], *(1 for _ in range(x.dim() - 2)))
    return torch.addcmul(offset.reshape(shape), x, slope.reshape(shape)), *others
