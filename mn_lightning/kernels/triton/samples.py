"""ModeNorm and ModeGroupNorm on a GPU: two passes over the activation forward and two backward, small steps between.

Everything takes activations ``(N, C, *)`` in float32, bfloat16 or float16 as they are, and computes in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning.kernels.triton import samples_kernels as kernels
from mn_lightning.kernels.triton.launch import launch, power_of_2
from mn_lightning.kernels.triton.rows import dense, like

_SAMPLES = 32
_CHANNELS = 32
_TILE = 2048


class _Pass(NamedTuple):
    """Sizes of the passes over an activation, each sample and some channels at a time.

    Attributes:
        grid: samples, and slices of the channels.
        sizes: N, L and C.
        strides: of samples, pixels and channels.
        tile: pixels and channels.
        per_sample: how many channels a program takes that goes through those of one sample.
    """

    grid: tuple[int, int]
    sizes: tuple[int, int, int]
    strides: tuple[int, int, int]
    tile: tuple[int, int]
    per_sample: int


@lru_cache(maxsize=4096)
def _planned(shape: tuple[int, ...], strides: tuple[int, ...]) -> _Pass:
    samples, features = shape[:2]
    length = torch.Size(shape[2:]).numel()
    pixels = min(power_of_2(length), 128)
    channels = min(power_of_2(features), max(16, _TILE // pixels), 256)
    last = len(shape) == 2 or (strides[1] == 1 and features > 1)
    return _Pass(
        (samples, -(-features // channels)),
        (samples, length, features),
        (features * length, features, 1) if last else (features * length, 1, length),
        (pixels, channels),
        min(power_of_2(features), 256),
    )


def _pass(x: Tensor) -> _Pass:
    return _planned(x.shape, x.stride())


def columns_for(modes: int) -> int:
    """How many columns there are for ``modes`` modes: a power of 2."""
    return max(2, power_of_2(modes))


def _pool(x: Tensor, a_pass: _Pass, centred: bool = True) -> tuple[Tensor, Tensor]:
    mean = torch.empty(x.shape[:2], device=x.device)
    within = torch.empty(x.shape[:2] if centred else (0,), device=x.device)
    launch(
        kernels.pool, a_pass.grid, (x, mean, within), (*a_pass.sizes, *a_pass.strides, *a_pass.tile, centred), warps=4
    )
    return mean, within


def _gradient_pool(x: Tensor, dy: Tensor, mean: Tensor, a_pass: _Pass) -> tuple[Tensor, Tensor]:
    plain, centred = torch.empty(x.shape[:2], device=x.device), torch.empty(x.shape[:2], device=x.device)
    launch(
        kernels.gradient_pool,
        a_pass.grid,
        (x, dy, mean, plain, centred),
        (*a_pass.sizes, *a_pass.strides, *a_pass.tile),
        warps=4,
    )
    return plain, centred


def mode_norm(
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running: tuple[Tensor, Tensor] | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
) -> tuple[Tensor, ...]:
    """Normalize with the batch's moments, or with those that are ``running``.

    Returns:
        y; the modes' mean and biased variance ``(K, C)``; and for the gradients, mean and variance of each sample's
        channels ``(N, C)``, log gates and shares ``(N, KP)``.
    """
    x = dense(x)
    a_pass = _pass(x)
    samples, features, modes = x.shape[0], a_pass.sizes[2], len(gate_bias)
    padded = columns_for(modes)
    mean, within = _pool(x, a_pass, running is None)
    log_gates = torch.empty(samples, padded, device=x.device)
    share = torch.empty(samples if running is None else 0, padded, device=x.device)
    launch(
        kernels.mode_gates,
        (-(-samples // 8), 1),
        (mean, gate_weight, gate_bias, log_gates),
        (samples, features, modes, 8, a_pass.per_sample, padded),
        warps=4,
    )
    if running is None:
        mode_mean, mode_var = (torch.empty(modes, features, device=x.device) for _ in range(2))
        launch(
            kernels.mode_moments,
            (-(-features // _CHANNELS), 1),
            (mean, within, log_gates, share, mode_mean, mode_var),
            (samples, features, modes, _SAMPLES, _CHANNELS, padded),
            warps=4,
        )
    else:
        mode_mean, mode_var = running
    y = torch.empty_like(x)
    launch(
        kernels.mode_apply,
        a_pass.grid,
        (x, log_gates, mode_mean, mode_var, gamma, beta, y),
        (*a_pass.sizes, modes, *a_pass.strides, eps, *a_pass.tile, padded, gamma is not None, beta is not None),
        warps=4,
    )
    return y, mode_mean, mode_var, mean, within, log_gates, share


def mode_norm_backward(
    dy: Tensor,
    x: Tensor,
    gate_weight: Tensor,
    gamma: Tensor | None,
    mode_mean: Tensor,
    mode_var: Tensor,
    mean: Tensor,
    within: Tensor,
    log_gates: Tensor,
    share: Tensor,
    eps: float,
    through_moments: bool,
) -> tuple[Tensor, ...]:
    """Gradients of x, gate weight ``(K, C)`` and bias ``(K,)``, γ and β ``(C,)``; float32 but for x's."""
    x = dense(x)
    dy = like(dy, x)
    a_pass = _pass(x)
    samples, features, modes = x.shape[0], a_pass.sizes[2], len(gate_weight)
    padded, has_gamma = log_gates.shape[1], gamma is not None
    plain, centred = _gradient_pool(x, dy, mean, a_pass)
    dmean, dvar, dweight = (torch.empty(modes, features, device=x.device) for _ in range(3))
    dgamma, dbeta = torch.empty(features, device=x.device), torch.empty(features, device=x.device)
    launch(
        kernels.mode_gradient_moments,
        (-(-features // _CHANNELS), 1),
        (plain, centred, mean, log_gates, mode_mean, mode_var, gamma, dgamma, dbeta, dmean, dvar),
        (samples, features, modes, eps, _SAMPLES, _CHANNELS, padded, has_gamma),
        warps=4,
    )
    dgates, dshare, dlogits = (torch.empty(samples, padded, device=x.device) for _ in range(3))
    launch(
        kernels.mode_gradient_gates,
        (-(-samples // 8), 1),
        (plain, centred, mean, within, log_gates, mode_mean, mode_var, gamma, dmean, dvar, dgates, dshare),
        (samples, features, modes, eps, 8, a_pass.per_sample, padded, has_gamma, through_moments),
        warps=4,
    )
    dbias = torch.empty(modes, device=x.device)
    launch(
        kernels.mode_gradient_logits,
        (-(-features // _CHANNELS), 1),
        (mean, log_gates, share, dgates, dshare, dlogits, dweight, dbias),
        (samples, features, modes, _SAMPLES, _CHANNELS, padded, through_moments),
        warps=4,
    )
    dx = torch.empty_like(x)
    launch(
        kernels.mode_gradient_rows,
        a_pass.grid,
        (x, dy, mean, log_gates, share, dlogits, gate_weight, mode_mean, mode_var, gamma, dmean, dvar, dx),
        (*a_pass.sizes, modes, *a_pass.strides, eps, *a_pass.tile, padded, has_gamma, through_moments),
        warps=4,
    )
    return dx, dweight, dbias, dgamma, dbeta


def average(running: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], momentum: float, rows: int) -> None:
    """Move running moments towards those of a batch of ``rows`` rows, in place."""
    size = running[0].numel()
    launch(kernels.average, (-(-size // 512), 1), (*running, *new), (size, momentum, rows / (rows - 1), 512), warps=4)


def mode_group_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """Normalize.

    Returns:
        y; and for the gradients, mean and variance of each sample's channels ``(N, C)``, slope and offset of each
        sample ``(N, 2)``, and what is known of its modes ``(N, 4, KP)``.
    """
    x = dense(x)
    a_pass = _pass(x)
    samples, modes = x.shape[0], len(gate_bias)
    padded = columns_for(modes)
    mean, within = _pool(x, a_pass)
    of_samples = torch.empty(samples, 2, device=x.device)
    stats = torch.empty(samples, 4, padded, device=x.device)
    launch(
        kernels.group_moments,
        (samples, 1),
        (mean, within, gate_weight, gate_bias, of_samples, stats),
        (a_pass.sizes[2], modes, eps, a_pass.per_sample, padded),
        warps=4,
    )
    y = torch.empty_like(x)
    launch(
        kernels.group_apply,
        a_pass.grid,
        (x, of_samples, gamma, beta, y),
        (*a_pass.sizes, *a_pass.strides, *a_pass.tile, gamma is not None, beta is not None),
        warps=4,
    )
    return y, mean, within, of_samples, stats


def mode_group_norm_backward(
    dy: Tensor,
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    within: Tensor,
    of_samples: Tensor,
    stats: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    """Gradients of x, gate weight and bias ``(K,)``, γ and β ``(C,)``; float32 but for x's."""
    x = dense(x)
    dy = like(dy, x)
    a_pass = _pass(x)
    samples, features, modes, padded = x.shape[0], a_pass.sizes[2], len(gate_bias), stats.shape[2]
    length = a_pass.sizes[1]
    plain, centred = _gradient_pool(x, dy, mean, a_pass)
    constant, factor = (torch.empty(samples, features, device=x.device) for _ in range(2))
    dparameters = torch.empty(samples, 2, padded, device=x.device)
    launch(
        kernels.group_gradient_moments,
        (samples, 1),
        (plain, centred, mean, within, gate_weight, gate_bias, gamma, stats, constant, factor, dparameters),
        (length, features, modes, eps, a_pass.per_sample, padded, gamma is not None),
        warps=4,
    )
    dgamma, dbeta = torch.empty(features, device=x.device), torch.empty(features, device=x.device)
    dweight, dbias = torch.empty(modes, device=x.device), torch.empty(modes, device=x.device)
    launch(
        kernels.group_gradient_parameters,
        (-(-features // _CHANNELS), 1),
        (plain, centred, mean, of_samples, dparameters, dgamma, dbeta, dweight, dbias),
        (samples, features, modes, _SAMPLES, _CHANNELS, padded),
        warps=4,
    )
    dx = torch.empty_like(x)
    launch(
        kernels.group_gradient_rows,
        a_pass.grid,
        (x, dy, mean, of_samples, gamma, constant, factor, dx),
        (*a_pass.sizes, *a_pass.strides, *a_pass.tile, gamma is not None),
        warps=4,
    )
    return dx, dweight, dbias, dgamma, dbeta
