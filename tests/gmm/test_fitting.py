"""Lloyd iterations and EM against scikit-learn and the loops."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.gmm_cases import REG, as_input, blobs, initial_mixture, sklearn_em, to_mixture, to_params
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from mn_lightning import gmm
from mn_lightning.utils.random import Stream, uniform

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("n_iter", [1, 3, 20])
@pytest.mark.parametrize(
    ("rows", "features", "n_components"), [(60, 1, 2), (200, 3, 1), (200, 3, 4), (500, 16, 3), (1000, 2, 4)]
)
def test_em_against_scikit_learn(rows: int, features: int, n_components: int, n_iter: int) -> None:
    x = blobs(rows, features, 4, seed=rows + features)
    start = initial_mixture(x, n_components, seed=n_components)
    expected = sklearn_em(x, start, n_iter)
    fitted = to_params(gmm.em(as_input(x), to_mixture(start), n_iter, REG))
    np.testing.assert_allclose(fitted[0], expected.weights_, atol=1e-9)
    np.testing.assert_allclose(fitted[1], expected.means_, atol=1e-9)
    np.testing.assert_allclose(fitted[2] + REG, expected.covariances_, atol=1e-9)
    single = to_params(gmm.em(as_input(x, torch.float32), to_mixture(start, torch.float32), n_iter, REG))
    assert oracle.mean_log_likelihood(x, single, REG) == pytest.approx(expected.score(x), abs=1e-4)


def test_em_against_the_loops() -> None:
    x = blobs(50, 3, 3, seed=1)
    start = initial_mixture(x, 3, seed=1)
    expected = oracle.em(x, start, 4, REG)
    fitted = to_params(gmm.em(as_input(x), to_mixture(start), 4, REG))
    for value, reference in zip(fitted, expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-9)


def test_em_with_no_iterations_returns_the_start() -> None:
    x = blobs(50, 3, 3, seed=1)
    start = initial_mixture(x, 3, seed=1)
    for value, reference in zip(to_params(gmm.em(as_input(x), to_mixture(start), 0, REG)), start, strict=True):
        np.testing.assert_array_equal(value, reference)


def test_em_never_lowers_the_likelihood() -> None:
    x = blobs(300, 4, 5, seed=2)
    mixture = to_mixture(initial_mixture(x, 4, seed=2))
    scores = []
    for _ in range(15):
        scores.append(oracle.mean_log_likelihood(x, to_params(mixture), 1e-12))
        mixture = gmm.em(as_input(x), mixture, 1, 1e-12)
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(scores))
    assert scores[-1] > scores[0] + 0.1


@pytest.mark.parametrize("n_iter", [2, 3, 5])
@pytest.mark.parametrize(("rows", "features", "n_components"), [(100, 2, 3), (300, 5, 4), (200, 1, 2)])
def test_lloyd_against_scikit_learn(rows: int, features: int, n_components: int, n_iter: int) -> None:
    x = blobs(rows, features, 4, seed=rows)
    centers = x[np.random.default_rng(rows).choice(rows, n_components, replace=False)]

    def kmeans(iterations: int) -> KMeans:
        model = KMeans(n_components, init=centers, n_init=1, max_iter=iterations, tol=0.0, algorithm="lloyd")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(x)

    labels = kmeans(n_iter - 1).labels_  # assigned to the centres after n_iter - 1 updates: the last assignment
    weights, means, variances = to_params(gmm.lloyd(as_input(x), torch.from_numpy(centers)[None], n_iter))
    np.testing.assert_allclose(means, kmeans(n_iter).cluster_centers_, atol=1e-9)
    for k in range(n_components):
        assert weights[k] == pytest.approx((labels == k).mean(), abs=1e-12)
        np.testing.assert_allclose(variances[k], x[labels == k].var(0), atol=1e-9)


@pytest.mark.parametrize("n_iter", [1, 2, 4])
def test_lloyd_against_the_loops_with_empty_clusters(n_iter: int) -> None:
    x = blobs(60, 2, 3, seed=5)
    centers = np.concatenate([x[:2], [[50.0, 50.0]], x[:1]])  # one out of reach, one duplicate: empty at first
    expected = oracle.lloyd(x, centers, n_iter)
    fitted = to_params(gmm.lloyd(as_input(x), torch.from_numpy(centers)[None], n_iter))
    assert (expected[0] == 0).any()
    for value, reference in zip(fitted, expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-9)
    np.testing.assert_array_equal(fitted[1][2], [50.0, 50.0])


def test_maximization_keeps_the_mean_of_a_component_without_rows() -> None:
    x = torch.randn(1, 1, 10, 2, dtype=torch.float64)
    resp = torch.zeros(1, 1, 10, 2, dtype=torch.float64)
    resp[..., 0] = 1
    previous = torch.tensor([[[0.0, 0.0], [7.0, -7.0]]], dtype=torch.float64)
    z = x[0, 0]
    sums = gmm.Sums(resp.sum((1, 2)), (resp[0, 0].mT @ z)[None], (resp[0, 0].mT @ z**2)[None])
    mixture = gmm.maximization(sums, previous)
    assert mixture.weights.tolist() == [[1, 0]]
    assert mixture.means[0, 1].tolist() == [7, -7]
    torch.testing.assert_close(mixture.means[0, 0], x[0, 0].mean(0))
    torch.testing.assert_close(mixture.variances[0, 0], x[0, 0].var(0, correction=0))
    assert all(p.isfinite().all() for p in mixture)


@pytest.mark.parametrize("function", ["em", "lloyd", "posteriors", "fit"])
def test_blocks_of_a_transposed_view_are_plain_rows(function: str) -> None:
    n, c, length, k = 4, 3, 9, 3
    activation = torch.randn(n, c, length, dtype=torch.float64)
    activation -= activation.mean((0, 2), keepdim=True)
    blocks = activation.mT.unsqueeze(0)  # (1, N, L, C), not contiguous
    plain = activation.permute(0, 2, 1).reshape(1, 1, n * length, c).contiguous()
    start = to_mixture(initial_mixture(plain[0, 0].numpy(), k, seed=1))

    def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if function == "em":
            return gmm.em(x, start, 3, REG)
        if function == "lloyd":
            return gmm.lloyd(x, start.means, 3)
        if function == "fit":
            return gmm.fit(x, k, 4, torch.tensor(1), REG)
        return (gmm.posteriors(x, start, REG).reshape(n * length, k),)

    for value, reference in zip(run(blocks), run(plain), strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-9)


def test_mixtures_fitted_side_by_side_do_not_touch() -> None:
    x = torch.randn(3, 1, 40, 2, dtype=torch.float64)
    x -= x.mean(2, keepdim=True)
    step = torch.tensor(2)
    draws = uniform(step, gmm.n_seeding_draws(3), Stream.KMEANS).double().numpy()
    fitted = gmm.fit(x, 3, 4, step, REG)
    for g in range(3):
        expected = oracle.fit(x[g, 0].numpy(), 3, 4, draws, REG)
        for value, reference in zip(fitted, expected, strict=True):
            np.testing.assert_allclose(value[g].numpy(), reference, atol=1e-9)
