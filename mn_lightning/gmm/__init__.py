"""Diagonal-covariance Gaussian mixtures, fitted with a fixed number of operations and no host synchronization.

Every function takes observations ``x`` of shape ``(G, B, M, D)``: G independent mixtures fitted side by side,
each to B blocks of M rows with D features. A matrix ``X`` of shape (M, D) as scikit-learn takes it is
``X[None, None]``. Blocks let an activation ``(N, C, L)`` be passed as the transposed view ``(1, N, L, C)``, without a
copy. Where a batch is spread over several processes, each passes its own rows, and all get the same mixture: sums over
rows go through :class:`~mn_lightning.utils.distributed.Processes`.

Distances and densities are expanded into products of rows and their squares, which lose digits when the data's mean is
large against its spread. :func:`fit` therefore takes rows relative to a point among them, and the other functions to
an ``origin`` ``(G, 1, D)``, as are then all means that go in and come out.

Examples:
    >>> import torch
    >>> x = torch.cat([torch.randn(300, 2) - 4, torch.randn(100, 2) + 4])[None, None]
    >>> mixture = fit(x, n_components=2, n_iter=6, step=torch.tensor(0), reg_covar=1e-5)
    >>> mixture.weights.sort().values
    tensor([[0.2500, 0.7500]])
    >>> posteriors(x, mixture, reg_covar=1e-5).shape
    torch.Size([1, 1, 400, 2])
"""

from mn_lightning.gmm.fitting import em, fit, lloyd
from mn_lightning.gmm.seeding import subsample
from mn_lightning.kernels.density import log_joint, posteriors, prune
from mn_lightning.kernels.fitting import maximization
from mn_lightning.kernels.kmeans import kmeans_plus_plus, n_seeding_draws, squared_distances
from mn_lightning.kernels.types import Mixture, Sums

__all__ = [
    "Mixture",
    "Sums",
    "em",
    "fit",
    "kmeans_plus_plus",
    "lloyd",
    "log_joint",
    "maximization",
    "n_seeding_draws",
    "posteriors",
    "prune",
    "squared_distances",
    "subsample",
]
