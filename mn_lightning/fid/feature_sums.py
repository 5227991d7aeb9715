"""torchmetrics' sums over features, and what is computed from them."""

import warnings
from typing import Any

from torch import Tensor, nn
from torchmetrics.image import FrechetInceptionDistance, InceptionScore, KernelInceptionDistance

from mn_lightning.fid.frechet import frechet_distance, mean_and_covariance

FAKE_STATES = ("fake_features_sum", "fake_features_cov_sum", "fake_features_num_samples")
REAL_STATES = ("real_features_sum", "real_features_cov_sum", "real_features_num_samples")


class _Given(nn.Identity):
    """Stands where torchmetrics has the extractor: the features are computed once for several metrics."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


class FeatureSums(FrechetInceptionDistance):
    """torchmetrics' FID over features in place of images, with the distance from symmetric eigendecompositions.

    The states are torchmetrics': float64 sums of features and outer products, and counts. It never talks to other
    processes by itself: a ``compute`` on one rank alone would wait for the others (torchmetrics #2684).

    Args:
        num_features: size D of the features ``(N, D)`` that ``update`` takes.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(feature=_Given(num_features), sync_on_compute=False)

    @classmethod
    def like(cls, features: Tensor) -> "FeatureSums":
        """Make empty sums for features ``(N, D)``, on their device."""
        # The sums are float64, which Apple's GPUs do not have.
        return cls(features.shape[1]).to("cpu" if features.device.type == "mps" else features.device)

    def compute(self) -> Tensor:
        """Return the Fréchet distance, 0-d float64."""
        real, fake = ([getattr(self, name) for name in names] for names in (REAL_STATES, FAKE_STATES))
        return frechet_distance(
            *mean_and_covariance(real[0], real[1], int(real[2])), *mean_and_covariance(fake[0], fake[1], int(fake[2]))
        )


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
