"""Inputs and parameters for the functions, and the loops called as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from helpers import oracle
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from mn_lightning import functional as F
from mn_lightning.gmm import Mixture

EPS = 1e-3  # not the default, so that one that is forgotten shows
SHAPES = [(9, 2), (3, 2, 3), (2, 3, 2, 2), (2, 2, 2, 1, 2)]
# (N, C) twice: once as it is, once with spatial dimensions of size 1 only, which is dense in every memory format.
WIDER_SHAPES = [(40, 3), (8, 4, 6), (4, 3, 5, 4), (3, 2, 3, 2, 4), (12, 3, 1, 1)]
GRANULARITIES: list[F.Granularity] = ["layer", "channel"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "relu": relu,
    "leaky": lambda x: leaky_relu(x, 0.2),
}


def close(value: Tensor, reference: Tensor | np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(value, torch.as_tensor(reference), rtol=tolerance, atol=tolerance)


def grouped_input(shape: tuple[int, ...], offset: float = 0.0) -> Tensor:
    """Samples around -2, 0.5 and 3, so that posteriors and gates are neither constant nor all 0 or 1."""
    centers = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    sample = centers[torch.arange(shape[0]) % 3].reshape(-1, *(1 for _ in shape[1:]))
    return sample + 0.8 * torch.randn(shape, dtype=torch.float64) + offset


def mixture_of_three(channels: int, granularity: F.Granularity, offset: float = 0.0) -> oracle.Params:
    """Components near those of :func:`grouped_input`; the last is broad and holds few rows."""
    rng = np.random.default_rng(channels)
    means = np.array([-1.8, 2.5, 0.5])[:, None] + 0.2 * rng.standard_normal((3, channels)) + offset
    variances = np.array([1.5, 1.0, 9.0])[:, None] * rng.uniform(0.8, 1.2, (3, channels))
    weights = np.array([0.5, 0.45, 0.05])
    if granularity == "channel":
        weights = rng.dirichlet([50, 45, 5], channels).T.copy()
    return weights, means, variances


def to_mixture(params: oracle.Params, dtype: torch.dtype = torch.float64) -> Mixture:
    return Mixture(*(torch.from_numpy(p).to(dtype) for p in params))


def affine_parameters(channels: int) -> tuple[Tensor, Tensor]:
    weight = torch.rand(channels, dtype=torch.float64) + 0.5
    return weight.requires_grad_(), torch.randn(channels, dtype=torch.float64).requires_grad_()


def gate_parameters(modes: int, features: int | None) -> tuple[Tensor, Tensor]:
    shape = (modes,) if features is None else (modes, features)
    weight = torch.randn(shape, dtype=torch.float64)
    return weight.requires_grad_(), torch.randn(modes, dtype=torch.float64).requires_grad_()


def outputs_and_gradients(
    function: Callable[..., Tensor], tensors: tuple[Tensor, ...], cotangent: Tensor
) -> tuple[Tensor, ...]:
    y = function(*tensors)
    return y.detach(), *torch.autograd.grad(y, tensors, cotangent.to(y.dtype))


def batch_norm_for(shape: tuple[int, ...], **options: Any) -> nn.Module:
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    return layer(shape[1], **options)


NORMS = ["mixture layer", "mixture channel", "mixture relu", "mode", "mode group"]


def parameters(name: str, channels: int, training: bool, offset: float = 0.0) -> dict[str, Any]:
    """Arguments, the same in every call, that use all that a function can do; float64."""
    rng = torch.Generator().manual_seed(7)
    weight = torch.rand(channels, generator=rng, dtype=torch.float64) + 0.5
    affine = {"weight": weight, "bias": torch.randn(channels, generator=rng, dtype=torch.float64)}
    if name.startswith("mixture"):
        granularity: F.Granularity = "channel" if name == "mixture channel" else "layer"
        mixture = to_mixture(mixture_of_three(channels, granularity, offset))
        activation = relu if name == "mixture relu" else None
        extra = {"mixture": mixture, "training": training, "granularity": granularity, "activation": activation}
        return affine | extra
    gate_shape = (3, channels) if name == "mode" else (3,)
    gate_weight = torch.randn(gate_shape, generator=rng, dtype=torch.float64)
    # Without this the gates of an input with a large offset are constant, and their exponentials overflow.
    compensation = gate_weight * offset
    gate_bias = -(compensation.sum(-1) if name == "mode" else compensation)
    affine |= {"gate_weight": gate_weight, "gate_bias": gate_bias}
    if name == "mode":
        affine["running_mean"] = torch.randn(3, channels, generator=rng, dtype=torch.float64) + offset
        affine["running_var"] = torch.rand(3, channels, generator=rng, dtype=torch.float64) + 0.5
        affine["training"] = training
    return affine


def cast(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    out = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Mixture):
            out[name] = Mixture(*(p.to(dtype) for p in value))
        elif isinstance(value, Tensor):
            out[name] = value.to(dtype, copy=True)
    return out


def apply(name: str, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    function = {"mode": F.mode_norm, "mode group": F.mode_group_norm}.get(name, F.mixture_norm)
    return function(x, **arguments)


def apply_oracle(name: str, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    if name == "mode":
        return oracle.mode_norm(x, **arguments)[0]
    if name == "mode group":
        return oracle.mode_group_norm(x, **arguments)
    arguments = dict(arguments)
    params = tuple(p.numpy() for p in arguments.pop("mixture"))
    return oracle.mixture_norm(x, params, **arguments)


def arrange(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "slice":
        big = torch.full((2 * x.shape[0], x.shape[1] + 1, *(2 * s for s in x.shape[2:])), 1e3, dtype=x.dtype)
        view = big[(slice(None, None, 2), slice(1, None), *(slice(None, None, 2) for _ in x.shape[2:]))]
        return view.copy_(x)
    if layout == "expanded":
        return x[:1].expand_as(x)
    return x.transpose(0, -1).contiguous().transpose(0, -1)
