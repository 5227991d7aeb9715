"""Against scikit-learn, scipy and loops in NumPy."""

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from mn_lightning import MixtureNorm
from mn_lightning.analysis.mixtures import (
    mixture_statistics,
    posteriors,
    row_statistics,
    row_sums,
    single_gaussian,
)
from mn_lightning.gmm import Mixture

EPS = 1e-5
WEIGHTS = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)


def mixture(channels: int = 5) -> Mixture:
    """Four components, of which three are in use."""
    return Mixture(WEIGHTS, 2 * torch.randn(4, channels).double(), torch.rand(4, channels).double() + 0.1)


def sklearn_mixture(ours: Mixture) -> GaussianMixture:
    used = ours.weights > 0
    theirs = GaussianMixture(int(used.sum()), covariance_type="diag")
    theirs.weights_, theirs.means_ = ours.weights[used].numpy(), ours.means[used].numpy()
    theirs.covariances_ = ours.variances[used].numpy() + EPS
    theirs.precisions_cholesky_ = theirs.covariances_**-0.5
    return theirs


def samples(ours: Mixture, count: int = 300) -> Tensor:
    component = torch.multinomial(ours.weights, count, replacement=True)
    return ours.means[component] + ours.variances[component].sqrt() * torch.randn(count, ours.means.shape[1]).double()


def test_the_single_gaussian_has_the_mean_and_variance_of_the_mixture() -> None:
    ours = mixture()
    rows = samples(ours, 200_000)
    weights, mean, variance = single_gaussian(ours)
    assert weights.tolist() == [1]
    torch.testing.assert_close(mean[0], rows.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(variance[0], rows.var(0), atol=0.05, rtol=0.03)


def test_the_shape_of_a_mixture_by_hand() -> None:
    ours = mixture()
    found = mixture_statistics(ours, EPS)
    assert found["components"] == 3
    assert found["entropy"] == pytest.approx(scipy.stats.entropy([0.5, 0.2, 0.3]))
    assert found["smallest_weight"] == pytest.approx(0.2)
    assert found["largest_weight"] == pytest.approx(0.5)
    means, variances = ours.means.numpy(), ours.variances.numpy()
    distances = [
        np.sqrt(
            np.mean([(means[k, d] - means[j, d]) ** 2 / ((variances[k, d] + variances[j, d]) / 2) for d in range(5)])
        )
        for k, j in ((0, 2), (0, 3), (2, 3))
    ]
    assert found["separation"] == pytest.approx(np.mean(distances), rel=1e-4)


def test_one_component_has_no_separation() -> None:
    found = mixture_statistics(Mixture(torch.tensor([1.0, 0.0]), torch.randn(2, 3), torch.ones(2, 3)))
    assert found["separation"].isnan()
    assert found["entropy"] == 0
    assert found["smallest_weight"] == found["largest_weight"] == found["components"] == 1


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_rows_against_scikit_learn(shift: float) -> None:
    ours = mixture()
    rows = samples(ours)
    theirs = sklearn_mixture(ours)
    one = single_gaussian(ours)
    gaussian = scipy.stats.multivariate_normal(one.means[0].numpy(), np.diag(one.variances[0].numpy() + EPS))
    gain = theirs.score(rows.numpy()) - gaussian.logpdf(rows.numpy()).mean()
    shifted = Mixture(ours.weights, ours.means + shift, ours.variances)
    sums = row_sums(rows + shift, shifted, EPS)
    found = row_statistics(sums)
    assert sums[0] == 300
    assert found["log_likelihood_gain"] == pytest.approx(gain / 5, rel=1e-6)
    assert found["confident"] == pytest.approx((theirs.predict_proba(rows.numpy()).max(1) > 0.9).mean())
    assert 0 < found["confident"] < 1


def test_sums_of_parts_are_those_of_the_whole() -> None:
    ours = mixture()
    rows = samples(ours)
    torch.testing.assert_close(row_sums(rows, ours), row_sums(rows[:100], ours) + row_sums(rows[100:], ours))
    assert row_sums(rows[:0], ours).tolist() == [0, 0, 0]
    assert row_statistics(row_sums(rows[:0], ours))["confident"].isnan()


def test_mixtures_of_channels_are_averaged() -> None:
    """Each against what its own mixture gives as a layer of one channel."""
    weights = torch.tensor([[0.3, 1.0], [0.7, 0.0]])
    ours = Mixture(weights, torch.randn(2, 2), torch.rand(2, 2) + 0.1)
    x = torch.randn(20, 2, 3)
    alone = [Mixture(weights[:, c], ours.means[:, c : c + 1], ours.variances[:, c : c + 1]) for c in range(2)]
    found = mixture_statistics(ours, EPS, "channel") | row_statistics(row_sums(x, ours, EPS, "channel"))
    expected = [
        mixture_statistics(alone[c], EPS) | row_statistics(row_sums(x[:, c : c + 1], alone[c], EPS)) for c in range(2)
    ]
    for name, value in found.items():
        both = [numbers[name] for numbers in expected if not numbers[name].isnan()]
        assert value == pytest.approx(float(sum(both)) / len(both), abs=1e-6), name


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_posteriors_against_scikit_learn(memory_format: torch.memory_format) -> None:
    ours = mixture()
    x = samples(ours, 6 * 12).reshape(6, 4, 3, 5).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    found = posteriors(x, ours, EPS)
    rows = x.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    expected = sklearn_mixture(ours).predict_proba(rows).reshape(6, 4, 3, 3)
    np.testing.assert_allclose(found[:, [0, 2, 3]].permute(0, 2, 3, 1), expected, atol=1e-7)
    assert (found[:, 1] == 0).all()
    torch.testing.assert_close(posteriors(x[:, :, 0, 0], ours, EPS), found[:, :, 0, 0])


def test_a_fit_to_several_clusters_gains_over_a_gaussian() -> None:
    layer = MixtureNorm(2, n_components=2)
    x = torch.randn(400, 2) + 6 * torch.randint(2, (400, 1))
    layer(x)
    layer.refit()
    found = row_statistics(row_sums(x, layer.mixture)) | mixture_statistics(layer.mixture)
    assert found["log_likelihood_gain"] > 0.5
    assert found["confident"] > 0.95
    assert found["separation"] == pytest.approx(6, rel=0.2)
