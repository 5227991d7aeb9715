"""torchmetrics' states and metrics over given features."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from mn_lightning.fid.feature_sums import FeatureSums, inception_score, kernel_distance


def test_distance_of_features_given_in_batches() -> None:
    real, fake = torch.randn(60, 8), torch.randn(50, 8) * 2 + 1
    sums = FeatureSums.like(real)
    for part in real.split(7):
        sums.update(part, real=True)
    for part in fake.split(9):
        sums.update(part, real=False)
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (real.double().numpy(), fake.double().numpy()))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert float(sums.compute()) == pytest.approx(expected, rel=1e-6)
    assert isinstance(sums, FrechetInceptionDistance)
    assert sums.real_features_cov_sum.dtype == torch.float64


def test_kid_of_whole_sets_is_torchmetrics_formula() -> None:
    real, fake = torch.randn(40, 5), torch.randn(40, 5) + 0.5
    mean, deviation = kernel_distance(real, fake)  # every subset is the whole set
    assert mean == pytest.approx(float(poly_mmd(real, fake)), rel=1e-4)
    assert deviation == pytest.approx(0, abs=1e-4)


def test_inception_score_of_uniform_and_of_certain_predictions() -> None:
    assert inception_score(torch.zeros(100, 10))[0] == pytest.approx(1)
    certain = (torch.eye(4) * 100).repeat_interleave(250, 0)
    assert inception_score(certain)[0] == pytest.approx(4, rel=0.05)
