"""What the functions and layers call: each norm as a whole, with the activation ``(N, C, *)`` as it is.

Activations are float32, bfloat16 or float16; everything is computed in float32. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn import functional

from mn_lightning.kernels.inner_graph import wants_gradients
from mn_lightning.kernels.triton import mixture, ops, samples
from mn_lightning.kernels.triton.launch import MOST_COMPONENTS, MOST_FEATURES, TYPES
from mn_lightning.kernels.types import Activation, FitOptions, Mixture, NormOptions, Ring

_RELUS = (torch.relu, functional.relu)


def takes(x: Tensor, features: int, components: int) -> bool:
    """Whether the kernels are made for the type of ``x``, and for so many features and components."""
    return x.dtype in TYPES and x.numel() > 0 and components <= MOST_COMPONENTS and features <= MOST_FEATURES


def try_out(of: Mixture) -> None:
    """Run a kernel with a mixture of one component and one feature, to see whether that is possible where it is."""
    mixture.evaluate(of.means, of, False, None, None, 1.0, False, False, None)


def takes_activation(activation: Activation | None) -> bool:
    """Whether an activation can go inside the sum over components."""
    return activation is None or _leak(activation) is not None


def fit_mixture(
    x: Tensor, n_components: int, n_iter: int, step: Tensor, eps: float, fit_rows: int | None = None
) -> mixture.Moments:
    """:func:`mn_lightning.functional.fit_mixture`."""
    n_em = n_iter // 2
    fit = ops.fit if torch.compiler.is_compiling() else mixture.fit
    return fit(x.detach(), step, n_components, n_iter - n_em, n_em, eps, fit_rows)


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
    moments = ops.moments if torch.compiler.is_compiling() else mixture.moments
    return mixture.unpacked(moments(x.detach(), *_float(start), eps, min_weight), len(start.weights))


def mixture_norm(
    x: Tensor, start: Mixture | FitOptions, gamma: Tensor | None, beta: Tensor | None, options: NormOptions
) -> tuple[Tensor, Tensor | bool]:
    """:func:`mn_lightning.functional.mixture_norm`, under a mixture or one that is fitted to ``x``.

    Returns:
        y, and in training whether all of ``x`` is finite, 0-d bool.
    """
    leak = None if options.activation is None else _leak(options.activation)
    gamma, beta = _contiguous(gamma), _contiguous(beta)
    how = gamma, beta, options.eps, options.affine == "component", options.scale == "sqrt", leak
    fit: tuple[Any, ...]
    if isinstance(start, FitOptions):
        n, n_em, step = start.n_components, start.em_iters // 2, start.step
        if start.fit_rows is None or start.fit_rows >= x.numel() // x.shape[1]:
            fit = None, None, None, step, n, start.em_iters - n_em, n_em
        else:
            fitted = fit_mixture(x, n, start.em_iters, step, options.eps, start.fit_rows)
            fit = *fitted, None, n, 0, 0
    elif options.training:
        fit = *_float(start), None, len(start.weights), 0, 0
    else:
        return _evaluate(x, _float(start), *how), True
    y: Tensor
    finite: Tensor
    if torch.compiler.is_compiling():
        y, _, _, finite = ops.mixture_norm_training(x, *fit, options.min_weight, *how)
    else:
        y, finite = ops.train_mixture(x, *fit, options.min_weight, *how)
    return y, finite


def _evaluate(x: Tensor, start: Mixture, gamma: Tensor | None, beta: Tensor | None, *how: Any) -> Tensor:
    wanted = wants_gradients(x, gamma, beta)
    y: Tensor
    if torch.compiler.is_compiling():
        y = ops.mixture_norm_evaluation(x, *start, wanted, gamma, beta, *how)[0]
    elif wanted:
        y = ops.evaluate_mixture(x, *start, True, gamma, beta, *how)
    else:
        y = mixture.evaluate(x, start, False, gamma, beta, *how)[0]
    return y


def enqueue(x: Tensor, step: Tensor, finite: Tensor | bool, ring: Ring) -> None:
    """:func:`mn_lightning.kernels.queue.enqueue`."""
    finite = finite if isinstance(finite, Tensor) else torch.tensor(finite, device=x.device)
    push = ops.push if torch.compiler.is_compiling() else mixture.push
    push(x.detach(), step, finite, *ring)


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
    if torch.compiler.is_compiling():
        return _compiled_mode_norm(x, gate_weight, gate_bias, running, gamma, beta, training, momentum, eps)
    there = None if running is None else (running[0].contiguous(), running[1].contiguous())
    y: Tensor
    if wants_gradients(x, gate_weight, gate_bias, gamma, beta):
        y = ops.normalize_modes(
            x, gate_weight, gate_bias, *(there or (None, None)), gamma, beta, eps, training, momentum
        )
    else:
        y = samples.mode_norm(x, gate_weight, gate_bias, there, gamma, beta, eps, training, momentum)[0]
    if training and running is not None and there is not None:
        for moment, new in zip(running, there, strict=True):
            if new is moment:
                increment_version(moment)  # a gradient of an earlier evaluation, which needs what was there, says so
            else:  # a view: the kernel has moved the copy
                moment.copy_(new)
    return y


def _compiled_mode_norm(
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
    """:func:`mode_norm` as an operation, which moves no running moments: that comes after it."""
    given = (None, None) if training or running is None else [moment.contiguous() for moment in running]
    y: Tensor
    y, kept = ops.mode_norm(x, gate_weight, gate_bias, *given, gamma, beta, eps, training, momentum)
    if training and running is not None:
        rows = x.shape[0] * x.shape[2:].numel()
        mean, var = samples.mode_moments(kept.detach(), *gate_weight.shape)
        for moment, new in zip(running, (mean, var * (rows / (rows - 1))), strict=True):
            moment.lerp_(new.to(moment.dtype), momentum)
    return y


def mode_group_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    """:func:`mn_lightning.functional.mode_group_norm`."""
    learned = map(_contiguous, (gate_weight, gate_bias, gamma, beta))
    gate_weight, gate_bias, gamma, beta = learned  # type: ignore[assignment]
    y: Tensor
    if torch.compiler.is_compiling():
        y = ops.mode_group_norm(x, gate_weight, gate_bias, gamma, beta, eps)[0]
    elif wants_gradients(x, gate_weight, gate_bias, gamma, beta):
        y = ops.normalize_groups(x, gate_weight, gate_bias, gamma, beta, eps)
    else:
        y = samples.mode_group_norm(x, gate_weight, gate_bias, gamma, beta, eps)[0]
    return y


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
