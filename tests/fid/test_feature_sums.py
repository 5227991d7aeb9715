"""Sums and metrics over given features, against SciPy and torchmetrics."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from mn_lightning.fid.feature_sums import FeatureSums, inception_score, kernel_distance


def sums_of(features: Tensor, size: int) -> FeatureSums:
    sums = FeatureSums.empty(features.shape[1])
    for part in features.split(size):
        sums.update(part)
    return sums


def test_distance_of_features_given_in_batches() -> None:
    real, fake = torch.randn(60, 8), torch.randn(50, 8) * 2 + 1
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (real.double().numpy(), fake.double().numpy()))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    distance = sums_of(real, 7).distance(sums_of(fake, 9))
    assert distance.dtype == torch.float64
    assert float(distance) == pytest.approx(expected, rel=1e-6)


def test_sums_are_those_of_torchmetrics() -> None:
    """Bit for bit: published values were computed from them."""

    class Given(nn.Identity):
        num_features = 8

    metric, features = FrechetInceptionDistance(feature=Given()), torch.randn(60, 8)
    for part in features.split(7):
        metric.update(part, real=True)
    sums = sums_of(features, 7)
    assert torch.equal(sums.total, metric.real_features_sum)
    assert torch.equal(sums.outer, metric.real_features_cov_sum)
    assert torch.equal(sums.count, metric.real_features_num_samples)


def test_parts_add_up_and_stay_as_they_are() -> None:
    features = torch.randint(-8, 8, (30, 4)).float()  # sums of small integers are exact
    one, other = sums_of(features[:11], 4), sums_of(features[11:], 4)
    both, whole = one + other, sums_of(features, 30)
    for name, value in vars(whole).items():
        assert torch.equal(getattr(both, name), value)
    assert (int(one.count), int(other.count)) == (11, 19)


def test_a_distance_takes_two_images_on_each_side() -> None:
    with pytest.raises(ValueError, match="1 samples"):
        sums_of(torch.randn(9, 3), 9).distance(sums_of(torch.randn(1, 3), 9))


def test_kid_of_whole_sets_is_torchmetrics_formula() -> None:
    real, fake = torch.randn(40, 5), torch.randn(40, 5) + 0.5
    mean, deviation = kernel_distance(real, fake)  # every subset is the whole set
    assert mean == pytest.approx(float(poly_mmd(real, fake)), rel=1e-4)
    assert deviation == pytest.approx(0, abs=1e-4)


def test_inception_score_of_uniform_and_of_certain_predictions() -> None:
    assert inception_score(torch.zeros(100, 10))[0] == pytest.approx(1)
    certain = (torch.eye(4) * 100).repeat_interleave(250, 0)
    assert inception_score(certain)[0] == pytest.approx(4, rel=0.05)
