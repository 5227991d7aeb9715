"""How a normalization changes the distribution of activations."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mn_lightning import functional as F
from mn_lightning.analysis.gates import gates
from mn_lightning.functional.rows import upcast
from mn_lightning.kernels.types import Mixture
from mn_lightning.layers import MixtureNorm, ModeNorm


class Shape(NamedTuple):
    """How a distribution differs from a normal one, for each channel, ``(C,)``; both are 0 for a normal distribution.

    Attributes:
        skewness: above 0 if the right tail is longer.
        kurtosis: excess kurtosis, above 0 if the tails are heavier.
    """

    skewness: np.ndarray
    kurtosis: np.ndarray


def shape(rows: Tensor) -> Shape:
    """Measure rows ``(M, C)``, with SciPy's biased estimators; NaN for a constant channel.

    Examples:
        >>> shape(torch.tensor([[0.0], [0.0], [0.0], [4.0]])).skewness.round(2)
        array([1.15])
    """
    import scipy.stats  # it takes a second to import

    values = rows.double().cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of constant channels
        return Shape(scipy.stats.skew(values, axis=0), scipy.stats.kurtosis(values, axis=0))


def flat_rows(input: Tensor) -> Tensor:
    """Return the C-vectors of ``(N, C, *)`` as rows ``(M, C)``, at least in float32."""
    return upcast(input.detach()).movedim(1, -1).flatten(0, -2)


@torch.no_grad()
def layer_mixture(input: Tensor, layer: MixtureNorm | ModeNorm) -> Mixture:
    """Return the mixture by which ``layer`` models its input.

    Args:
        input: ``(N, C, *)``.
        layer: a MixtureNorm gives its stored mixture, a ModeNorm its mean gates for this input with its running
            moments.

    Returns:
        Weights ``(K,)`` or ``(K, C)``, means and variances ``(K, C)``.

    Examples:
        >>> [tuple(part.shape) for part in layer_mixture(torch.randn(16, 8), ModeNorm(8, n_components=2))]
        [(2,), (2, 8), (2, 8)]
    """
    if isinstance(layer, MixtureNorm):
        return layer.mixture
    return Mixture(gates(input, layer).mean(0), layer.running_mean, layer.running_var)


@torch.no_grad()
def normalized(input: Tensor, layer: MixtureNorm | ModeNorm) -> Tensor:
    """Normalize ``(N, C, *)`` as ``layer`` does in evaluation, without its affine map and activation.

    Args:
        input: ``(N, C, *)``.
        layer: in the state in which evaluation uses it.

    Returns:
        ``(N, C, *)``, in float32 at least.
    """
    x = upcast(input.detach())
    if isinstance(layer, MixtureNorm):
        return F.mixture_norm(x, layer.mixture, eps=layer.eps, granularity=layer.granularity, scale=layer.scale)
    gate = layer.gate
    return F.mode_norm(x, gate.weight, gate.bias, layer.running_mean, layer.running_var, eps=layer.eps)


def log_likelihood_gains(rows: Tensor, mixture: Mixture, eps: float = 1e-5) -> np.ndarray:
    """Return how much better the mixture describes each single channel than the channel's own Gaussian does.

    Args:
        rows: ``(M, C)``.
        mixture: weights ``(K,)`` or ``(K, C)``, means and variances ``(K, C)``.
        eps: added to the variances.

    Returns:
        Mean difference of the log-densities, in nats per value, ``(C,)``.
    """
    x = rows.double().cpu().numpy()
    weights, means, variances = (part.detach().double().cpu().numpy() for part in mixture)
    weights = np.broadcast_to(weights if weights.ndim == 2 else weights[:, None], means.shape)
    gaussian = _log_normal(x, x.mean(0), x.var(0) + eps)
    total = np.full_like(x, -np.inf)
    with np.errstate(divide="ignore"):  # the weight of an unused component has no finite logarithm
        for weight, mean, variance in zip(weights, means, variances, strict=True):
            total = np.logaddexp(total, np.log(weight) + _log_normal(x, mean, variance + eps))
    return np.asarray((total - gaussian).mean(0))


def _log_normal(x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return np.asarray(-((x - mean) ** 2 / variance + np.log(2 * np.pi * variance)) / 2)


def typical_channels(gains: np.ndarray, count: int = 4) -> list[int]:
    """Choose channels, from the one for which a mixture matters least to the one for which it matters most.

    Args:
        gains: for each channel, ``(C,)``.
        count: how many. They have evenly spaced ranks, so that the picture shows not only the best or the worst.

    Returns:
        Up to ``count`` channels, by increasing gain.

    Examples:
        >>> typical_channels(np.array([0.3, 0.0, 0.1, 0.2]), count=2)
        [1, 0]
    """
    order = np.argsort(np.nan_to_num(gains, nan=-np.inf), kind="stable")
    ranks = np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))
    return [int(channel) for channel in order[ranks]]
