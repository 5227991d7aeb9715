"""Rows and mixtures for tests of the fit, and scikit-learn at the same start."""

import warnings

import numpy as np
import torch
from helpers import oracle
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from mn_lightning.gmm import Mixture

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
