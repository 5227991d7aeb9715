"""ModeNorm and ModeGroupNorm on a GPU: one launch forward and one backward.

Everything takes activations ``(N, C, *)`` in float32, bfloat16 or float16 as they are, and computes in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning.kernels.triton import mode_group_kernels, mode_kernels
from mn_lightning.kernels.triton.launch import launch_steps, most_programs, power_of_2
from mn_lightning.kernels.triton.rows import dense, like

_TILE = 2048

Running = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""Of x, the gates' weight and bias, γ and β, each in the type of what it is the gradient of."""


class _Plan(NamedTuple):
    """How the kernels go through an activation.

    Attributes:
        programs: how many there are.
        sizes: N, L, C and K; the strides of samples, pixels and channels; pixels and channels of a tile; and channels
            of what one program does for a sample.
        samples: samples and channels of the tiles of what one program does for some channels; and KP.
        scratch: how many numbers ModeNorm's gradients need on the way, and ModeGroupNorm's.
    """

    programs: int
    sizes: tuple[int, ...]
    samples: tuple[int, int, int]
    scratch: tuple[int, int]


@lru_cache(maxsize=4096)
def _planned(shape: tuple[int, ...], strides: tuple[int, ...], modes: int, device: torch.device) -> _Plan:
    samples, features = shape[:2]
    length = torch.Size(shape[2:]).numel()
    pixels = min(power_of_2(length), 128)
    channels = min(power_of_2(features), max(16, _TILE // pixels), 256)
    last = len(shape) == 2 or (strides[1] == 1 and features > 1)
    padded = columns_for(modes)
    some = min(power_of_2(samples), 256)
    of_samples, of_modes = samples * padded, modes * features
    return _Plan(
        min(most_programs(device), samples * -(-features // channels)),
        (
            *(samples, length, features, modes),
            *((features * length, features, 1) if last else (features * length, 1, length)),
            *(pixels, channels, min(power_of_2(features), 256)),
        ),
        (some, min(power_of_2(features), max(8, _TILE // some), 64), padded),
        (2 * (samples * features + of_modes) + 3 * of_samples, 4 * samples * features + 2 * of_samples),
    )


def _plan(x: Tensor, modes: int) -> _Plan:
    return _planned(x.shape, x.stride(), modes, x.device)


def columns_for(modes: int) -> int:
    """How many columns there are for ``modes`` modes: a power of 2."""
    return max(2, power_of_2(modes))


def numbers_kept(x: Tensor, modes: int, in_groups: bool = False) -> int:
    """How many numbers :func:`mode_norm` or :func:`mode_group_norm` keeps for the gradients."""
    samples, features = x.shape[:2]
    if in_groups:
        return 2 * samples * (features + 1) + 4 * samples * columns_for(modes)
    return 2 * (samples * (features + columns_for(modes)) + modes * features)


def _floats(like: Tensor, size: int) -> Tensor:
    return like.new_empty(size, dtype=torch.float32)


def mode_norm(
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running: Running | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    training: bool,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Normalize with the moments of the batch, ``training``, or with those that are ``running``.

    Args:
        x: ``(N, C, *)``.
        gate_weight: W, ``(K, C)``.
        gate_bias: b, ``(K,)``.
        running: mean and variance, ``(K, C)``; in training, moved towards the batch's in place, if there are any.
        gamma: ``(C,)``.
        beta: ``(C,)``.
        eps: added to the variances.
        training: which moments.
        momentum: weight of the batch's moments in the running ones.

    Returns:
        y, and what :func:`mode_norm_backward` needs; :func:`mode_moments` finds the modes' moments in it.
    """
    x = dense(x)
    plan = _plan(x, len(gate_bias))
    kept, y = _floats(x, numbers_kept(x, len(gate_bias))), torch.empty_like(x)
    rows = plan.sizes[0] * plan.sizes[1]
    average = training and running is not None
    launch_steps(
        mode_kernels.mode_norm,
        4 if training else 3,
        plan.programs,
        (x, gate_weight, gate_bias, *(running or (None, None)), gamma, beta, kept, y),
        (eps, momentum, rows / max(rows - 1, 1)),
        (*plan.sizes, *plan.samples, gamma is not None, beta is not None, training, average),
    )
    return y, kept


def mode_moments(kept: Tensor, modes: int, features: int) -> Running:
    """Mean and biased variance ``(K, C)`` of the modes, from what :func:`mode_norm` kept in training."""
    mean, var = kept[len(kept) - 2 * modes * features :].view(2, modes, features).unbind()
    return mean, var


def mode_norm_backward(
    dy: Tensor,
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running: Running | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    kept: Tensor,
    eps: float,
) -> Gradients:
    """Gradients; ``running`` is None where the moments are those of x."""
    x = dense(x)
    dy = like(dy, x)
    plan = _plan(x, len(gate_bias))
    scratch, dx = _floats(x, plan.scratch[0]), torch.empty_like(x)
    learned = torch.empty_like(gate_weight), torch.empty_like(gate_bias), _like(gamma), _like(beta)
    launch_steps(
        mode_kernels.mode_norm_backward,
        5,
        plan.programs,
        (x, dy, gate_weight, *(running or (None, None)), gamma, kept, scratch, dx, *learned),
        (eps,),
        (*plan.sizes, *plan.samples, gamma is not None, beta is not None, running is None),
    )
    return dx, *learned


def _like(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else torch.empty_like(parameter)


def mode_group_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Normalize.

    Returns:
        y, and what :func:`mode_group_norm_backward` needs.
    """
    x = dense(x)
    plan = _plan(x, len(gate_bias))
    kept, y = _floats(x, numbers_kept(x, len(gate_bias), True)), torch.empty_like(x)
    launch_steps(
        mode_group_kernels.mode_group_norm,
        3,
        plan.programs,
        (x, gate_weight, gate_bias, gamma, beta, kept, y),
        (eps,),
        (*plan.sizes, plan.samples[2], gamma is not None, beta is not None),
    )
    return y, kept


def mode_group_norm_backward(
    dy: Tensor,
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    kept: Tensor,
    eps: float,
) -> Gradients:
    """Gradients."""
    x = dense(x)
    dy = like(dy, x)
    plan = _plan(x, len(gate_bias))
    scratch, dx = _floats(x, plan.scratch[1]), torch.empty_like(x)
    learned = torch.empty_like(gate_weight), torch.empty_like(gate_bias), _like(gamma), _like(beta)
    launch_steps(
        mode_group_kernels.mode_group_norm_backward,
        3,
        plan.programs,
        (x, dy, gate_weight, gate_bias, gamma, kept, scratch, dx, *learned),
        (eps,),
        (*plan.sizes, *plan.samples, gamma is not None, beta is not None),
    )
    return dx, *learned
