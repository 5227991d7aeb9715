"""What the functions and layers call: each norm as a whole, with the activation ``(N, C, *)`` as it is.

Activations are float32, bfloat16 or float16; everything is computed in float32. Nothing here waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mn_lightning.kernels.inner_graph import wants_gradients
from mn_lightning.kernels.triton import mixture, ops
from mn_lightning.kernels.triton.launch import MOST_COMPONENTS, MOST_FEATURES, TYPES
from mn_lightning.kernels.types import Activation, Mixture, NormOptions

_RELUS = (torch.relu, functional.relu)


def takes(x: Tensor, features: int, components: int) -> bool:
    """Whether the kernels are made for the type of ``x``, and for so many features and components."""
    return x.dtype in TYPES and x.numel() > 0 and components <= MOST_COMPONENTS and features <= MOST_FEATURES


def takes_activation(activation: Activation | None) -> bool:
    """Whether an activation can go inside the sum over components."""
    return activation is None or _leak(activation) is not None


def fit_mixture(
    x: Tensor, n_components: int, n_iter: int, step: Tensor, eps: float, fit_rows: int | None = None
) -> mixture.Moments:
    """:func:`mn_lightning.functional.fit_mixture`."""
    n_em = n_iter // 2
    return mixture.fit(x.detach(), step, n_components, n_iter - n_em, n_em, eps, fit_rows)


def lloyd(x: Tensor, centers: Tensor, n_iter: int, origin: Tensor | None) -> Mixture:
    """:func:`mn_lightning.gmm.lloyd` for rows ``(1, B, M, D)``."""
    start = centers if origin is None else centers + origin
    return _relative(mixture.lloyd(x.detach()[0], start[0].contiguous(), n_iter), origin)


def em(x: Tensor, start: Mixture, n_iter: int, eps: float, origin: Tensor | None) -> Mixture:
    """:func:`mn_lightning.gmm.em` for rows ``(1, B, M, D)``."""
    weights, means, variances = (value[0] for value in start)
    means = means if origin is None else means + origin[0]
    return _relative(mixture.em(x.detach()[0], _float(Mixture(weights, means, variances)), n_iter, eps), origin)


def mixture_moments(x: Tensor, start: Mixture, eps: float, min_weight: float) -> mixture.Moments:
    """:func:`mn_lightning.functional.mixture_moments`."""
    return mixture.normalize(x.detach(), _float(start), eps, min_weight, moments_only=True)[2]


def mixture_norm(x: Tensor, start: Mixture, gamma: Tensor | None, beta: Tensor | None, options: NormOptions) -> Tensor:
    """:func:`mn_lightning.functional.mixture_norm`."""
    leak = None if options.activation is None else _leak(options.activation)
    gamma, beta = _contiguous(gamma), _contiguous(beta)
    how = gamma, beta, options.eps, options.affine == "component", options.scale == "sqrt", leak
    if options.training:
        return ops.train_mixture(x, *_float(start), options.min_weight, *how)
    if wants_gradients(x, gamma, beta):
        return ops.evaluate_mixture(x, *_float(start), True, *how)
    return mixture.evaluate(x, _float(start), False, *how)[0]


def all_finite(of: Mixture) -> Tensor:
    """Whether all numbers of a mixture are finite: 0-d bool."""
    return mixture.all_finite(of.means, of.variances)


def enqueue(x: Tensor, step: Tensor, finite: Tensor, pushes: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Copy rows of ``x``, if it is ``finite``, into slot ``pushes`` of a ring ``rows (size, capacity, C)``."""
    mixture.push(x.detach(), step, finite, pushes, rows, counts)


def mode_norm(
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running: tuple[Tensor, Tensor] | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """:func:`mn_lightning.functional.mode_norm`."""
    learned = map(_contiguous, (gate_weight, gate_bias, gamma, beta))
    gate_weight, gate_bias, gamma, beta = learned  # type: ignore[assignment]
    training = training or running is None
    options = gamma, beta, eps, training, momentum
    if running is None:
        return ops.normalize_modes(x, gate_weight, gate_bias, None, None, *options)
    if all(moment.is_contiguous() for moment in running):
        return ops.normalize_modes(x, gate_weight, gate_bias, *running, *options)
    there = [moment.contiguous() for moment in running]
    y = ops.normalize_modes(x, gate_weight, gate_bias, *there, *options)
    for moment, new in zip(running, there, strict=True):
        if training:
            moment.copy_(new)
    return y


def mode_group_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    """:func:`mn_lightning.functional.mode_group_norm`."""
    return ops.normalize_groups(x, *map(_contiguous, (gate_weight, gate_bias, gamma, beta)), eps)


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return parameter if parameter is None or parameter.is_contiguous() else parameter.contiguous()


def _float(of: Mixture) -> Mixture:
    if all(value.dtype == torch.float32 and value.is_contiguous() for value in of):
        return of
    return Mixture(*(value.float().contiguous() for value in of))


def _relative(of: mixture.Moments, origin: Tensor | None) -> Mixture:
    weights, means, variances = (value.unsqueeze(0) for value in of)
    return Mixture(weights, means if origin is None else means - origin, variances)


def _leak(activation: Activation) -> float | None:
    """Slope of an activation below 0, where it is one of those with two slopes of which the other is 1."""
    if isinstance(activation, nn.ReLU) or activation in _RELUS:
        return 0.0
    if isinstance(activation, nn.LeakyReLU):
        return float(activation.negative_slope)
    return 1.0 if isinstance(activation, nn.Identity) else None
