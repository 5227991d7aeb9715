"""Posteriors and pruning against scikit-learn and the loops."""

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.gmm_cases import REG, as_input, blobs, initial_mixture, sklearn_em, to_mixture

from mn_lightning import gmm


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
