"""The fit to an activation, and the moments under it, against the loops and scikit-learn."""

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.gmm_cases import REG, as_input, blobs, sklearn_em
from sklearn.mixture import GaussianMixture

from mn_lightning import functional, gmm
from mn_lightning.functional import Granularity
from mn_lightning.gmm import Mixture
from mn_lightning.kernels.kmeans import SEED_ROWS
from mn_lightning.utils.random import Stream, uniform

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("shape", [(40, 3), (6, 3, 10), (5, 3, 2, 6), (3, 4, 2, 3, 3)])
@pytest.mark.parametrize(("n_components", "em_iters"), [(1, 2), (2, 2), (3, 1), (3, 5), (4, 4)])
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
    x = blobs(3 * SEED_ROWS, 4, 3, seed=13, spread=4.0)
    best = GaussianMixture(3, covariance_type="diag", n_init=3, random_state=0).fit(x).score(x)
    for step in range(5):
        fitted = functional.fit_mixture(torch.from_numpy(x).float(), 3, 10, torch.tensor(step))
        assert oracle.mean_log_likelihood(x[::50], tuple(p.double().numpy() for p in fitted), REG) > (
            oracle.mean_log_likelihood(x[::50], (fitted.weights.numpy(), x[:3] * 0, x.var(0) + x[:3] * 0), REG)
        )
        joint = gmm.log_joint(as_input(x), Mixture(*(p.double()[None] for p in fitted)), REG)
        assert joint.logsumexp(-1).mean().item() > best - 0.02


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
        mixture = functional.fit_mixture(rows.to(dtype), 4, 4, torch.tensor(step), REG, granularity)
        assert all(p.isfinite().all() for p in mixture)
        assert (mixture.variances >= 0).all()
        torch.testing.assert_close(mixture.weights.sum(0), torch.ones_like(mixture.weights.sum(0)))
        mean = (mixture.weights.reshape(4, -1) * mixture.means).sum(0)
        torch.testing.assert_close(mean, rows.to(dtype).mean(0), rtol=1e-4, atol=1e-6)


def test_two_distinct_rows_are_found() -> None:
    rows = torch.tensor([[0.0, 1, 2], [3, 4, 5]], dtype=torch.float64).repeat(10, 1)
    mixture = functional.fit_mixture(rows, 2, 4, torch.tensor(0), REG)
    order = mixture.means[:, 0].argsort()
    torch.testing.assert_close(mixture.means[order], rows[:2])
    torch.testing.assert_close(mixture.weights, torch.full((2,), 0.5, dtype=torch.float64))
    assert mixture.variances.max() < 1e-12


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
