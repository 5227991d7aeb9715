"""What a layer has to compute, by the papers' formulas in float64."""

from typing import Any

import torch
from helpers import oracle
from torch import Tensor, nn

from mn_lightning import MixtureNorm, ModeGroupNorm
from mn_lightning import functional as F
from mn_lightning.gmm import Mixture


def parameters_of(layer: nn.Module) -> dict[str, Tensor]:
    """Copies in float64 to take gradients of."""
    return {name: value.detach().double().requires_grad_() for name, value in layer.named_parameters()}


def apply(
    layer: nn.Module, x: Tensor, parameters: dict[str, Tensor], mixture: Mixture | None, at: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Output for ``x`` in float64, with its graph, and the new running moments if there are any."""
    weight, bias = parameters.get("weight"), parameters.get("bias")
    if mixture is not None:
        y = oracle.mixture_norm(
            x,
            tuple(value.detach().double().numpy() for value in mixture),
            parameters["log_weight"].exp() if "log_weight" in parameters else weight,
            bias,
            training=layer.training,
            eps=layer.eps,
            affine=layer.affine or "output",
            granularity=layer.granularity,
            scale=layer.scale,
            activation=_activation(layer, parameters),
            at=at,
        )
        return (y,)
    gate_weight, gate_bias = parameters["gate.weight"], parameters["gate.bias"]
    if isinstance(layer, ModeGroupNorm):
        return (oracle.mode_group_norm(x, gate_weight[:, 0], gate_bias, weight, bias, at=at),)
    moments = [torch.zeros_like(gate_weight), torch.ones_like(gate_weight)]
    if not layer.training:
        moments = [layer.running_mean.double(), layer.running_var.double()]
    return oracle.mode_norm(x, gate_weight, gate_bias, *moments, weight, bias, layer.training, at=at)


def _activation(layer: nn.Module, parameters: dict[str, Tensor]) -> Any:
    activation = layer.activation
    if not isinstance(activation, nn.Module):
        return activation
    learned = {name: parameters[f"activation.{name}"] for name, _ in activation.named_parameters()}
    # A row of the loops is a vector of channels, which PReLU would take for samples.
    return lambda row: torch.func.functional_call(activation, learned, (row.unsqueeze(0),)).squeeze(0)


def formula(layer: nn.Module, x: Tensor, mixture: Mixture | None, at: Tensor | None = None) -> dict[str, Tensor]:
    """The output, and in training its gradients and the running moments."""
    x, parameters = x.detach().double().requires_grad_(), parameters_of(layer)
    y, *moments = apply(layer, x, parameters, mixture, at)
    found = {"output": y.detach(), **dict(zip(("running_mean", "running_var"), moments, strict=False))}
    if layer.training and at is None:
        inputs = {"input": x, **parameters}
        gradients = torch.autograd.grad(y, inputs.values(), cotangent(y), allow_unused=True, materialize_grads=True)
        found |= {f"gradient of {name}": value for name, value in zip(inputs, gradients, strict=True)}
    return found


def cotangent(y: Tensor) -> Tensor:
    return torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype)


def next_mixture(layer: nn.Module, x: Tensor) -> Mixture | None:
    """The mixture under which the next pass of ``layer`` normalizes ``x``; None for a layer without mixtures.

    That of a batch is taken from ``fit_mixture``, which has tests of its own against loops.
    """
    if not isinstance(layer, MixtureNorm):
        return None
    if not layer.training:
        return layer.mixture
    step = layer.num_batches_tracked + 1
    options: dict[str, Any] = {"eps": layer.eps, "granularity": layer.granularity, "fit_rows": layer.fit_rows}
    return F.fit_mixture(x.detach().double(), layer.n_components, layer.em_iters, step, **options)
