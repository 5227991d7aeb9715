"""k-means++: which rows it looks at, and which of them it takes for centres."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.gmm_cases import blobs
from scipy import stats

from mn_lightning import gmm
from mn_lightning.kernels.kmeans import SEED_ROWS, _seed_rows
from mn_lightning.utils.distributed import ALONE
from mn_lightning.utils.random import Stream, uniform


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


def test_seed_rows_are_rows_of_all_blocks() -> None:
    blocks, rows = 50, 200
    x = torch.arange(blocks * rows, dtype=torch.float64).reshape(1, blocks, rows, 1)
    chosen = _seed_rows(x, uniform(torch.tensor(5), SEED_ROWS, Stream.SEED_ROWS), ALONE)[0].flatten().numpy()
    assert len(chosen) == SEED_ROWS
    assert (chosen == np.round(chosen)).all()
    assert stats.kstest(chosen / (blocks * rows), "uniform").pvalue > 1e-3
    assert stats.kstest(chosen % rows / rows, "uniform", method="asymp").pvalue > 1e-3
