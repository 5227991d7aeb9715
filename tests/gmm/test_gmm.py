"""Mixture fits against scikit-learn and against the loops of ``oracle``."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from helpers import oracle
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from mn_lightning import functional, gmm
from mn_lightning.functional import Granularity
from mn_lightning.gmm import Mixture
from mn_lightning.utils.random import Stream, stratified, uniform

pytestmark = pytest.mark.usefixtures("small_blocks")

REG = 1e-5


def blobs(rows: int, features: int, n_blobs: int, seed: int, spread: float = 2.0) -> np.ndarray:
    """Overlapping Gaussian clusters of different width, around the origin."""
    rng = np.random.default_rng(seed)
    centers = spread * rng.standard_normal((n_blobs, features))
    widths = rng.uniform(0.3, 1.2, (n_blobs, features))
    label = rng.integers(0, n_blobs, rows)
    x = centers[label] + widths[label] * rng.standard_normal((rows, features))
    return x - x.mean(0)


def initial_mixture(x: np.ndarray, n_components: int, seed: int) -> oracle.Params:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_components, 5.0))
    means = x[rng.choice(len(x), n_components, replace=False)]
    variances = rng.uniform(0.5, 2.0, means.shape) * x.var(0)
    return weights, means, variances


def to_mixture(params: oracle.Params, dtype: torch.dtype = torch.float64) -> Mixture:
    return Mixture(*(torch.from_numpy(p).to(dtype)[None] for p in params))


def to_params(mixture: Mixture) -> oracle.Params:
    return tuple(p.squeeze(0).double().numpy() for p in mixture)


def sklearn_em(x: np.ndarray, params: oracle.Params, n_iter: int, reg: float = REG) -> GaussianMixture:
    """scikit-learn's EM, ``n_iter`` iterations from ``params`` and not one fewer."""
    weights, means, variances = params
    model = GaussianMixture(
        len(weights),
        covariance_type="diag",
        max_iter=n_iter,
        tol=0.0,
        reg_covar=reg,
        weights_init=weights,
        means_init=means,
        precisions_init=1 / (variances + reg),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x)
    assert model.n_iter_ == n_iter
    return model


def as_input(x: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(x).to(dtype)[None, None]


# --- EM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_iter", [1, 3, 20])
@pytest.mark.parametrize(
    ("rows", "features", "n_components"), [(60, 1, 2), (200, 3, 1), (200, 3, 4), (500, 16, 3), (1000, 2, 6)]
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


def test_posteriors_and_log_joint_against_the_loops_and_scikit_learn() -> None:
    x = blobs(80, 5, 3, seed=3)
    params = initial_mixture(x, 4, seed=3)
    mixture = to_mixture(params)
    nu = gmm.posteriors(as_input(x), mixture, REG)[0, 0].numpy()
    joint = gmm.log_joint(as_input(x), mixture, REG)[0, 0].numpy()
    np.testing.assert_allclose(nu, oracle.posteriors(x, params, REG), atol=1e-10)
    np.testing.assert_allclose(joint, oracle.log_joint(x, params, REG), atol=1e-9)
    model = sklearn_em(x, params, 1)
    fitted = (model.weights_, model.means_, model.covariances_)
    nu = gmm.posteriors(as_input(x), to_mixture(fitted), 0.0)[0, 0].numpy()
    np.testing.assert_allclose(nu, model.predict_proba(x), atol=1e-10)


def test_posterior_of_an_unused_component_is_exactly_zero_and_rows_far_away_are_finite() -> None:
    params = (np.array([0.5, 0.0, 0.5]), np.array([[-1.0], [0.0], [1.0]]), np.full((3, 1), 1e-6))
    x = np.array([[0.01], [1e3], [-1e12], [0.0]])
    for dtype in (torch.float32, torch.float64):
        nu = gmm.posteriors(as_input(x, dtype), to_mixture(params, dtype), 0.0)[0, 0]
        assert (nu[:, 1] == 0).all()
        torch.testing.assert_close(nu.sum(-1), torch.ones(4, dtype=dtype))
        assert nu[1].tolist() == [0, 0, 1]


# --- Lloyd --------------------------------------------------------------------------------------------------------


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


# --- k-means++ ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 2, 3, 5, 8, 21])
def test_kmeans_plus_plus_against_the_loops(n_components: int) -> None:
    x = blobs(70, 3, 5, seed=n_components)
    n_draws = 1 + (n_components - 1) * (2 + int(math.log(n_components)))
    assert gmm.n_seeding_draws(n_components) == n_draws
    for seed in range(10):
        draws = np.random.default_rng(seed).random(n_draws)
        centers = gmm.kmeans_plus_plus(torch.from_numpy(x)[None], n_components, torch.from_numpy(draws))
        np.testing.assert_array_equal(centers[0].numpy(), oracle.kmeans_plus_plus(x, n_components, draws))


def test_kmeans_plus_plus_of_several_mixtures_is_each_alone() -> None:
    x = torch.randn(4, 30, 2, dtype=torch.float64)
    draws = torch.rand(gmm.n_seeding_draws(5), dtype=torch.float64)
    together = gmm.kmeans_plus_plus(x, 5, draws)
    for g in range(4):
        assert torch.equal(together[g], torch.from_numpy(oracle.kmeans_plus_plus(x[g].numpy(), 5, draws.numpy())))


def test_kmeans_plus_plus_draws_in_proportion_to_squared_distance() -> None:
    points = np.array([0.0, 1.0, 3.0, 4.0, 9.0])
    # The distribution of the second centre, from the definition: two candidates, the better one is taken.
    expected = np.zeros((5, 5))
    for first in range(5):
        d2 = (points - points[first]) ** 2
        p = d2 / d2.sum()
        left = [np.minimum(d2, (points - q) ** 2).sum() for q in points]
        for a, b in itertools.product(range(5), repeat=2):
            expected[first, a if left[a] <= left[b] else b] += p[a] * p[b] / 5
    n = 4000
    x = torch.from_numpy(points)[None, :, None]
    observed = np.zeros((5, 5))
    for draws in torch.rand(n, gmm.n_seeding_draws(2), dtype=torch.float64):
        first, second = gmm.kmeans_plus_plus(x, 2, draws).flatten().tolist()
        observed[np.flatnonzero(points == first)[0], np.flatnonzero(points == second)[0]] += 1
    assert observed[expected == 0].sum() == 0  # a centre is not drawn again
    possible = expected > 0
    assert stats.chisquare(observed[possible], n * expected[possible]).pvalue > 1e-3


def test_kmeans_plus_plus_is_better_than_random_rows() -> None:
    x = blobs(200, 4, 6, seed=8, spread=5.0)

    def inertia(centers: np.ndarray) -> float:
        return ((x[:, None] - centers[None]) ** 2).sum(-1).min(1).sum()

    rng = np.random.default_rng(0)
    at_random = [inertia(x[rng.choice(200, 6, replace=False)]) for _ in range(100)]
    seeded = [
        inertia(
            gmm.kmeans_plus_plus(torch.from_numpy(x)[None], 6, uniform(torch.tensor(s), 64, Stream.KMEANS))[0].numpy()
        )
        for s in range(100)
    ]
    assert np.median(seeded) < 0.5 * np.median(at_random)


def test_squared_distances() -> None:
    x, t = torch.randn(2, 7, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(gmm.squared_distances(x, t), torch.cdist(t, x) ** 2)
    near = torch.randn(1, 50, 8)
    assert (gmm.squared_distances(near, near) >= 0).all()


# --- pruning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("min_weight", [0.0, 0.01, 0.2, 0.9])
def test_prune_against_the_loops(min_weight: float) -> None:
    x = blobs(60, 2, 3, seed=9)
    params = initial_mixture(x, 5, seed=9)
    params[1][3] += 30  # owns no row
    joint = oracle.log_joint(x, params, REG)
    nu, counts = gmm.prune(torch.from_numpy(joint)[None, None], min_weight)
    share = counts / len(joint)
    expected_nu, expected_share = oracle.prune(joint, min_weight)
    np.testing.assert_allclose(nu[0, 0].numpy(), expected_nu, atol=1e-12)
    np.testing.assert_allclose(share[0].numpy(), expected_share, atol=1e-12)
    assert (share > 0).sum() == {0.0: 5, 0.01: 4, 0.9: 1}.get(min_weight, (share > 0).sum())


def test_a_row_whose_posterior_vanishes_goes_to_the_most_likely_component_left() -> None:
    # 1 of 200 rows belongs to the third component and is 1e4 standard deviations from the others.
    x = np.concatenate([np.linspace(-1, 1, 100), np.linspace(9, 11, 99), [1e4]])[:, None]
    params = (np.array([0.5, 0.495, 0.005]), np.array([[0.0], [10.0], [1e4]]), np.ones((3, 1)))
    for dtype in (torch.float32, torch.float64):
        joint = gmm.log_joint(as_input(x, dtype), to_mixture(params, dtype), 0.0)
        nu, counts = gmm.prune(joint, 0.01)
        assert nu[0, 0, -1].tolist() == [0, 1, 0]
        assert counts[0, 2] == 0
        torch.testing.assert_close(counts.sum(), torch.tensor(200, dtype=dtype))


def test_one_component_always_lives() -> None:
    joint = torch.randn(1, 1, 20, 4)
    nu, counts = gmm.prune(joint, 0.999)
    assert (counts[0] > 0).sum() == 1
    assert (nu.sum(-1) == 1).all()


# --- the whole fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 3), (6, 3, 10), (5, 3, 2, 6), (3, 4, 2, 3, 3)])
@pytest.mark.parametrize(("n_components", "em_iters"), [(1, 2), (2, 2), (3, 1), (3, 5), (5, 4)])
def test_fit_mixture_against_the_loops(shape: tuple[int, ...], n_components: int, em_iters: int) -> None:
    x = 0.7 * torch.randn(shape, dtype=torch.float64) + torch.randn(shape[0], *(1 for _ in shape[1:])) * 2 + 3
    rows = oracle.rows_of(x).numpy()
    step = torch.tensor(17)
    draws = uniform(step, gmm.n_seeding_draws(n_components), Stream.KMEANS).double().numpy()
    fitted = functional.fit_mixture(x, n_components, em_iters, step, REG)
    expected = oracle.fit(rows - rows.mean(0), n_components, em_iters, draws, REG)
    expected = (expected[0], expected[1] + rows.mean(0), expected[2])
    assert [tuple(p.shape) for p in fitted] == [(n_components,), (n_components, shape[1]), (n_components, shape[1])]
    for value, reference in zip(fitted, expected, strict=True):
        np.testing.assert_allclose(value.numpy(), reference, atol=1e-9)
    channels = functional.fit_mixture(x, n_components, em_iters, step, REG, "channel")
    assert channels.weights.shape == (n_components, shape[1])
    for c in range(shape[1]):
        one = rows[:, c : c + 1] - rows[:, c].mean()
        weights, means, variances = oracle.fit(one, n_components, em_iters, draws, REG)
        np.testing.assert_allclose(channels.weights[:, c].numpy(), weights, atol=1e-9)
        np.testing.assert_allclose(channels.means[:, c].numpy(), means[:, 0] + rows[:, c].mean(), atol=1e-9)
        np.testing.assert_allclose(channels.variances[:, c].numpy(), variances[:, 0], atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_components", "em_iters"), [(2, 4), (3, 2), (4, 10)])
def test_fit_mixture_against_scikit_learn(offset: float, dtype: torch.dtype, n_components: int, em_iters: int) -> None:
    """Also with a mean that is large against the spread: what counts is the data after rounding to ``dtype``."""
    x = torch.from_numpy(blobs(600, 3, 4, seed=11) + offset).to(dtype)
    rows = x.double().numpy()
    rows = rows - rows.mean(0)
    step = torch.tensor(3)
    draws = uniform(step, gmm.n_seeding_draws(n_components), Stream.KMEANS).double().numpy()
    n_em = em_iters // 2
    start = oracle.lloyd(rows, oracle.kmeans_plus_plus(rows, n_components, draws), em_iters - n_em)
    expected = sklearn_em(rows, start, n_em)
    weights, means, variances = (p.double().numpy() for p in functional.fit_mixture(x, n_components, em_iters, step))
    fitted = (weights, means - x.double().numpy().mean(0), variances)
    assert oracle.mean_log_likelihood(rows, fitted, REG) == pytest.approx(expected.score(rows), abs=1e-4)


def test_a_fit_from_a_sample_of_the_rows_is_as_good_as_scikit_learns() -> None:
    x = blobs(3 * gmm.SEED_ROWS, 4, 3, seed=13, spread=4.0)
    best = GaussianMixture(3, covariance_type="diag", n_init=3, random_state=0).fit(x).score(x)
    for step in range(5):
        fitted = functional.fit_mixture(torch.from_numpy(x).float(), 3, 10, torch.tensor(step))
        assert oracle.mean_log_likelihood(x[::50], tuple(p.double().numpy() for p in fitted), REG) > (
            oracle.mean_log_likelihood(x[::50], (fitted.weights.numpy(), x[:3] * 0, x.var(0) + x[:3] * 0), REG)
        )
        joint = gmm.log_joint(as_input(x), Mixture(*(p.double()[None] for p in fitted)), REG)
        assert joint.logsumexp(-1).mean().item() > best - 0.02


def test_seed_rows_are_rows_of_all_blocks() -> None:
    blocks, rows = 50, 200
    x = torch.arange(blocks * rows, dtype=torch.float64).reshape(1, blocks, rows, 1)
    chosen = gmm._seed_rows(x, torch.tensor(5)).flatten().numpy()
    assert len(chosen) == gmm.SEED_ROWS
    assert (chosen == np.round(chosen)).all()
    assert stats.kstest(chosen / (blocks * rows), "uniform").pvalue > 1e-3
    assert stats.kstest(chosen % rows / rows, "uniform", method="asymp").pvalue > 1e-3


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rows",
    [
        torch.full((20, 3), 2.5),  # one distinct row
        torch.zeros(20, 3),
        torch.tensor([[0.0, 1, 2], [3, 4, 5]]).repeat(10, 1),  # two distinct rows
        torch.tensor([[0.0, 1, 2], [3, 4, 5]]),  # fewer rows than components
        torch.cat([torch.zeros(19, 3), torch.full((1, 3), 1e6)]),
        torch.randn(3, 3) * 1e-20,
    ],
    ids=["constant", "zero", "two-distinct", "two-rows", "outlier", "tiny"],
)
def test_degenerate_rows_are_fitted_with_finite_numbers(
    rows: torch.Tensor, dtype: torch.dtype, granularity: Granularity
) -> None:
    for step in range(4):
        mixture = functional.fit_mixture(rows.to(dtype), 5, 4, torch.tensor(step), REG, granularity)
        assert all(p.isfinite().all() for p in mixture)
        assert (mixture.variances >= 0).all()
        torch.testing.assert_close(mixture.weights.sum(0), torch.ones_like(mixture.weights.sum(0)))
        mean = (mixture.weights.reshape(5, -1) * mixture.means).sum(0)
        torch.testing.assert_close(mean, rows.to(dtype).mean(0), rtol=1e-4, atol=1e-6)


def test_two_distinct_rows_are_found() -> None:
    rows = torch.tensor([[0.0, 1, 2], [3, 4, 5]], dtype=torch.float64).repeat(10, 1)
    mixture = functional.fit_mixture(rows, 2, 4, torch.tensor(0), REG)
    order = mixture.means[:, 0].argsort()
    torch.testing.assert_close(mixture.means[order], rows[:2])
    torch.testing.assert_close(mixture.weights, torch.full((2,), 0.5, dtype=torch.float64))
    assert mixture.variances.max() < 1e-12


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


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_mixture_moments_against_the_loops(granularity: Granularity) -> None:
    x = torch.from_numpy(blobs(60, 3, 3, seed=21)) + 5
    rng = np.random.default_rng(0)
    means = x[:4].numpy().copy()
    means[2] += 100  # no row
    variances = rng.uniform(0.5, 2.0, (4, 3))
    weights = rng.dirichlet(np.ones(4))
    if granularity == "channel":
        weights = np.repeat(weights[:, None], 3, 1)
    mixture = Mixture(*(torch.from_numpy(p) for p in (weights, means, variances)))
    stored = functional.mixture_moments(x, mixture, REG, granularity, 0.01)
    groups = [slice(None)] if granularity == "layer" else [slice(c, c + 1) for c in range(3)]
    for c, group in enumerate(groups):
        w = weights if granularity == "layer" else weights[:, c]
        expected = oracle.moments(x.numpy()[:, group], (w, means[:, group], variances[:, group]), REG, 0.01)
        share = stored.weights if granularity == "layer" else stored.weights[:, c]
        np.testing.assert_allclose(share.numpy(), expected[0], atol=1e-9)
        alive = expected[0] > 0
        assert not alive[2]
        assert share[2] == 0
        np.testing.assert_allclose(stored.means.numpy()[alive, group], expected[1][alive], atol=1e-9)
        np.testing.assert_allclose(stored.variances.numpy()[alive, group], expected[2][alive], atol=1e-9)


def test_fit_is_outside_the_graph() -> None:
    x = torch.randn(20, 3, requires_grad=True)
    assert not any(p.requires_grad for p in functional.fit_mixture(x, 2, 2, torch.tensor(0)))


# --- random numbers -----------------------------------------------------------------------------------------------


def test_uniform_numbers_are_uniform() -> None:
    for step, stream in [(0, 0), (1, 0), (123456, 0), (1, 1), (7, 25)]:
        u = uniform(torch.tensor(step), 20000, stream).double().numpy()
        assert u.min() >= 0
        assert u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4 / math.sqrt(20000)
    table = np.stack([uniform(torch.tensor(s), 4, Stream.KMEANS).double().numpy() for s in range(5000)])
    for column in table.T:  # the same draw over consecutive steps
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 4 / math.sqrt(5000)
    correlation = np.corrcoef(table.T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / math.sqrt(5000)


def test_uniform_numbers_of_different_steps_and_streams_are_independent() -> None:
    keys = [(step, stream) for step in (0, 1, 2, 1000) for stream in (0, 1, 2, 3)]
    table = np.stack([uniform(torch.tensor(step), 10000, stream).double().numpy() for step, stream in keys])
    correlation = np.corrcoef(table) - np.eye(len(keys))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(10000)
    cells = np.histogram2d(table[0], table[1], bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.flatten()).pvalue > 1e-3


def test_uniform_numbers_are_a_function_of_step_and_stream_alone() -> None:
    first = uniform(torch.tensor(5), 100, stream=2)
    torch.rand(3)
    assert torch.equal(first, uniform(torch.tensor([5]), 100, stream=2))
    assert torch.equal(first[:10], uniform(torch.tensor(5), 10, stream=2))
    assert first.dtype == torch.float32
    assert not torch.equal(first, uniform(torch.tensor(6), 100, stream=2))
    assert not torch.equal(first, uniform(torch.tensor(5), 100, stream=3))
    assert uniform(torch.tensor(2**62), 100, 0).isfinite().all()


# --- a fit to some of the rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(300, 3), (30, 3, 10), (10, 3, 6, 5)])
def test_a_fit_to_some_rows_is_a_fit_of_these_rows(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 2 + 50
    step = torch.tensor(3)
    fitted = functional.fit_mixture(x, 3, 4, step, REG, fit_rows=90)
    rows = oracle.rows_of(x)
    chosen = rows[stratified(step, 90, 300, Stream.FIT_ROWS)]
    assert len(chosen.unique(dim=0)) == 90
    expected = functional.fit_mixture(chosen, 3, 4, step, REG)
    for value, reference in zip(fitted, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-9)
    assert not torch.allclose(fitted.means, functional.fit_mixture(x, 3, 4, step, REG).means)


def test_a_fit_to_more_rows_than_there_are_is_a_fit_to_all() -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    step = torch.tensor(3)
    for value, reference in zip(
        functional.fit_mixture(x, 3, 4, step, REG, fit_rows=41), functional.fit_mixture(x, 3, 4, step, REG), strict=True
    ):
        assert torch.equal(value, reference)


@pytest.mark.parametrize(("size", "total"), [(10, 10), (10, 15), (7, 100)])
def test_rows_of_a_stratified_choice_are_different_and_equally_likely(size: int, total: int) -> None:
    counts = np.zeros(total)
    for step in range(4000):
        chosen = stratified(torch.tensor(step), size, total, 0)
        assert len(chosen.unique()) == size
        counts[chosen.numpy()] += 1
    # Choices of one step exclude each other, so that counts vary less than independent ones would.
    assert stats.chisquare(counts).pvalue > 1e-3
