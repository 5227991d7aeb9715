"""The norms in torch's operations, from what a forward pass has kept: for gradients that are differentiated again."""

from __future__ import annotations

import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.types import Mixture, NormOptions, mean_of


def plain_mixture_norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, nu: Tensor, found: Mixture,
    how: tuple[float, bool, bool, float | None], through_moments: bool,
) -> Tensor:  # fmt: skip
    """Eq. 34, 37 or 38 under posteriors ``nu (K, M)``; ``how`` is eps, inside, sqrt and leak of the kernels."""
    eps, inside, sqrt, leak = how
    wide = x.float()
    rows = (wide.unsqueeze(2) if x.dim() == 2 else wide.flatten(2)).mT.unsqueeze(0)
    packed = Mixture(*(t.unsqueeze(0) for t in found))
    origin = mean_of(packed)
    rows, packed = rows - origin.unsqueeze(1), packed._replace(means=packed.means - origin)
    nu = nu.mT.reshape(1, *rows.shape[1:3], -1)
    if through_moments:
        counts = packed.weights * (x.shape[0] * x.shape[2:].numel())
        packed = Mixture(packed.weights, *reference.batch_moments(rows, nu, counts))
    options = NormOptions(
        through_moments,
        eps,
        "component" if inside else "output",
        "sqrt" if sqrt else "unit",
        None if leak is None else lambda before: torch.nn.functional.leaky_relu(before, leak),
        0.0,
    )
    gamma, beta = (None if t is None else t.float().reshape(1, 1, -1) for t in (gamma, beta))
    y = reference.normalize(rows, nu, packed, gamma, beta, options)
    return y.squeeze(0).mT.reshape(x.shape).to(x.dtype)


def plain_mode_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor | None, beta: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Algorithm 1 of Deecke et al. with the batch's moments, Algorithm 2 with running ones."""
    flat = x.float().reshape(*x.shape[:2], -1)
    var, mean = torch.var_mean(flat, dim=2, correction=0)
    log_gates = (mean @ gate_weight.float().mT + gate_bias.float()).log_softmax(1)
    if running_mean is None or running_var is None:
        share = log_gates.softmax(0)
        mode_mean = share.mT @ mean
        apart = mean.unsqueeze(1) - mode_mean
        mode_var = (share.unsqueeze(2) * (apart.square() + var.unsqueeze(1))).sum(0)
    else:
        mode_mean, mode_var = running_mean.float(), running_var.float()
    inverse = (mode_var + eps).rsqrt()
    gates = log_gates.exp()
    y = flat * (gates @ inverse).unsqueeze(2) - (gates @ (inverse * mode_mean)).unsqueeze(2)
    return _affine(y, gamma, beta).reshape(x.shape).to(x.dtype)


def plain_mode_group_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    """Algorithm 3 of Deecke et al."""
    flat = x.float().reshape(*x.shape[:2], -1)
    var, mean = torch.var_mean(flat, dim=2, correction=0, keepdim=True)
    share = (mean * gate_weight.float() + gate_bias.float()).log_softmax(2).softmax(1)
    mode_mean = (share * mean).sum(1, keepdim=True)
    inverse = ((share * (var + (mean - mode_mean).square())).sum(1, keepdim=True) + eps).rsqrt()
    y = flat * inverse.mean(2, keepdim=True) - (mode_mean * inverse).mean(2, keepdim=True)
    return _affine(y, gamma, beta).reshape(x.shape).to(x.dtype)


def _affine(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        y = y * gamma.float().unsqueeze(1)
    return y if beta is None else y + beta.float().unsqueeze(1)
