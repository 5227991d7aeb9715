"""Recognise layers that can be replaced: those that compute BatchNorm in evaluation, perhaps with something after it.

Libraries have BatchNorm classes of their own: with an activation inside (timm's ``BatchNormAct2d``), or with weights
and statistics that never change (torchvision's ``FrozenBatchNorm2d``). They are recognised by what they hold and
compute.
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from mn_lightning.layers import MixtureNorm, ModeNorm

_BUFFERS = ("weight", "bias", "running_mean", "running_var")
_RANKS = ((4, 2, 2), (4,), (4, 2, 2, 2))
"""Shapes of trial inputs, without the channels: images, vectors, volumes."""


class Source(NamedTuple):
    """The parts of what a layer computes.

    Attributes:
        batch_norm: the norm: the layer itself, or a BatchNorm with its weight, bias and statistics.
        after: names of the layer's own modules that the norm's output goes through, in order.
    """

    batch_norm: Any
    after: tuple[str, ...] = ()


def is_frozen_batch_norm(layer: nn.Module) -> bool:
    """Whether weight, bias and statistics are all buffers, as in the ``FrozenBatchNorm2d`` of every library."""
    buffers = [layer._buffers.get(name) for name in _BUFFERS]
    return all(buffer is not None and buffer.dim() == 1 for buffer in buffers) and not isinstance(layer, _BatchNorm)


def read_source(name: str, layer: nn.Module) -> Source:
    """Split ``layer`` into its norm and what comes after it.

    Raises:
        ValueError: one line that names the layer, if it computes anything but BatchNorm and its own modules after that.
    """
    kind = type(layer).__name__
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        raise ValueError(f"{name} is a {kind} of unknown size; run one batch through the model first")
    more = sorted(set(layer._parameters) - {"weight", "bias"})
    if is_parametrized(layer) or more:
        what = "parametrized weights" if is_parametrized(layer) else f"the parameters {', '.join(more)}"
        raise ValueError(
            f"{name} is a {kind} with {what}, which no other norm can take over; remove the parametrization or the "
            "pruning first, as with torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
        )
    if type(layer).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return Source(layer)
    after = tuple(child for child, _ in layer.named_children())
    if not _computes_batch_norm(layer, after):
        raise ValueError(
            f"{name} is a {kind}, which computes more than BatchNorm and its own modules after it; only BatchNorm1d, "
            "BatchNorm2d, BatchNorm3d, SyncBatchNorm and what evaluates like them can be swapped"
        )
    return Source(_thawed(layer) if is_frozen_batch_norm(layer) else layer, after)


def read_swapped(name: str, layer: Any) -> Source:
    """Split a layer that a swap has put in, so that it can be swapped again.

    Raises:
        ValueError: one line that names the layer, if it has an affine map that BatchNorm does not have, or an
            activation that was taken out of the network.
    """
    activation = getattr(layer, "activation", None)
    if getattr(layer, "log_weight", None) is not None or activation is not None:
        what = "affine='component'" if activation is None else "an activation inside"
        raise ValueError(f"{name} is a {type(layer).__name__} with {what}; start from a model with BatchNorm there")
    if isinstance(layer, _BatchNorm):
        return read_source(name, layer)
    weight, bias = (getattr(layer, key, None) for key in ("weight", "bias"))
    affine = weight is not None or bias is not None
    batch_norm: Any = nn.BatchNorm2d(num_channels(layer), getattr(layer, "eps", 1e-5), affine=affine)
    if affine:
        batch_norm.weight, batch_norm.bias = weight, bias
    moments = _moments(layer)
    if moments:
        batch_norm.running_mean, batch_norm.running_var = moments
    elif weight is not None:
        batch_norm.to(weight.device)
    return Source(batch_norm, getattr(layer, "_after_norm", ()))


@torch.no_grad()
def _moments(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Mean and variance of all components or modes together, ``(C,)``."""
    if isinstance(layer, MixtureNorm):
        weights, means, variances = layer.mixture
        weights = weights if weights.dim() == 2 else weights.unsqueeze(1)
    elif isinstance(layer, ModeNorm):
        weights, means, variances = torch.tensor(1 / layer.n_components), layer.running_mean, layer.running_var
    else:
        return None
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0)


def num_channels(layer: Any) -> int:
    """Number of channels that a norm layer takes."""
    for name in ("num_features", "num_channels"):
        if hasattr(layer, name):
            return int(getattr(layer, name))
    return len(layer.weight)


def _thawed(layer: Any) -> nn.BatchNorm2d:
    """A BatchNorm with the values of a frozen one. Its weight and bias stay untrained."""
    batch_norm = nn.BatchNorm2d(len(layer.weight), layer.eps, device=layer.weight.device, dtype=layer.weight.dtype)
    batch_norm.load_state_dict({name: getattr(layer, name) for name in _BUFFERS}, strict=False)
    return batch_norm.requires_grad_(False)


@torch.no_grad()
def _computes_batch_norm(layer: nn.Module, after: tuple[str, ...]) -> bool:
    """Evaluate a copy of ``layer`` with other values, and compare the result with BatchNorm's."""
    trial: Any = copy.deepcopy(layer).eval()
    trial = trial.to_empty(device="cpu") if any(value.is_meta for value in _values(layer)) else trial.cpu()
    trial.float()
    for value in _values(trial):
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    features = next(value for value in (trial.running_mean, trial.weight, torch.empty(0)) if value is not None)
    for batch, *pixels in _RANKS:
        x = torch.randn(batch, len(features), *pixels)
        try:
            found = type(layer).forward(trial, x.clone())
        except Exception:  # it takes input of another rank
            continue
        expected = F.batch_norm(
            x, trial.running_mean, trial.running_var, trial.weight, trial.bias, trial.running_mean is None, 0, trial.eps
        )
        for child in after:
            expected = getattr(trial, child)(expected)
        return isinstance(found, Tensor) and found.shape == x.shape and torch.allclose(found, expected, atol=1e-4)
    return False


def _values(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(), *layer.buffers()]
