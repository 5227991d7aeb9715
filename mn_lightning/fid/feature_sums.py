"""Sums over many features, and the distances that are computed from them."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image import InceptionScore, KernelInceptionDistance

from mn_lightning.fid.frechet import frechet_distance, mean_and_covariance


@dataclass
class FeatureSums:
    """Sums over features ``(N, D)``, from which mean and covariance are computed.

    Attributes:
        total: sum of the features, float64 ``(D,)``.
        outer: sum of their outer products, float64 ``(D, D)``.
        count: N, int64 ``()``.

    Examples:
        >>> sums = FeatureSums.empty(2)
        >>> sums.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> sums.total.tolist(), sums.outer.tolist(), int(sums.count)
        ([4.0, 6.0], [[10.0, 14.0], [14.0, 20.0]], 2)
    """

    total: Tensor
    outer: Tensor
    count: Tensor

    @classmethod
    def empty(cls, num_features: int, device: torch.device | None = None) -> "FeatureSums":
        """Make the sums over no features of size ``num_features``."""
        if device is not None and device.type == "mps":  # Apple's GPUs have no float64
            device = torch.device("cpu")
        return cls(
            torch.zeros(num_features, dtype=torch.float64, device=device),
            torch.zeros(num_features, num_features, dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    def update(self, features: Tensor) -> None:
        """Add features ``(N, D)`` to the sums."""
        features = features.to(self.total)
        self.total += features.sum(0)
        self.outer += features.T @ features
        self.count += len(features)

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        """Return the sums over both sets of features."""
        return FeatureSums(self.total + other.total, self.outer + other.outer, self.count + other.count)

    def to(self, device: torch.device | str) -> "FeatureSums":
        """Return the same sums on another device."""
        return FeatureSums(self.total.to(device), self.outer.to(device), self.count.to(device))

    def distance(self, other: "FeatureSums") -> Tensor:
        """Return the Fréchet distance between the normal distributions with the two sets' moments, 0-d float64.

        Raises:
            ValueError: if there are fewer than two features in one of the sets.
        """
        return frechet_distance(*self._moments(), *other._moments())

    def _moments(self) -> tuple[Tensor, Tensor]:
        return mean_and_covariance(self.total, self.outer, int(self.count))


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Compute torchmetrics' KID (Bińkowski et al., arXiv:1801.01401): mean and standard deviation over 100 subsets.

    Args:
        real: features ``(N, D)``.
        fake: features ``(M, D)``. Subsets have 1,000 features, or all of the smaller set.
    """
    size = min(1000, len(real), len(fake))
    metric = _quietly(KernelInceptionDistance, subset_size=size)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    mean, deviation = metric.compute()
    return float(mean), float(deviation)


def inception_score(logits: Tensor) -> tuple[float, float]:
    """Compute torchmetrics' Inception score of logits ``(N, classes)``: mean and standard deviation over 10 splits."""
    metric = _quietly(InceptionScore)
    metric.update(logits)
    mean, deviation = metric.compute()
    return float(mean), float(deviation)


def _quietly(metric_class: Any, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer")
        return metric_class(nn.Identity(), sync_on_compute=False, **arguments)
