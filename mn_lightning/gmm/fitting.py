"""Lloyd's algorithm and expectation maximization, for a fixed number of iterations."""

from types import ModuleType

import torch
from torch import Tensor

from mn_lightning.gmm.seeding import seed_draws
from mn_lightning.kernels.select import backend_for_rows, gpu_kernels
from mn_lightning.kernels.types import Mixture, Sums, weights_of
from mn_lightning.utils.distributed import ALONE, Processes


def fit(
    x: Tensor, n_components: int, n_iter: int, step: Tensor, reg_covar: float, processes: Processes = ALONE
) -> Mixture:
    """Fit by greedy k-means++, then Lloyd iterations, then EM; ``n_iter`` counts both phases, as the papers do.

    An odd count gives the extra iteration to Lloyd.

    Args:
        x: observations, ``(G, B, M, D)``.
        n_components: K >= 1.
        n_iter: iterations in all, >= 1.
        step: int64 tensor with one element, from which all random choices are made.
        reg_covar: added to the variances in densities.
        processes: those that have the rows between them; each passes its own and gets the mixture of all.

    Returns:
        Weights ``(G, K)``, means and variances ``(G, K, D)``.

    Examples:
        >>> x = torch.randn(1, 1, 500, 8)
        >>> mixture = fit(x, n_components=3, n_iter=2, step=torch.tensor(0), reg_covar=1e-5)
        >>> [tuple(part.shape) for part in mixture]
        [(1, 3), (1, 3, 8), (1, 3, 8)]
    """
    n_em = n_iter // 2
    backend = backend_for_rows(x)
    centers, origin = backend.seed_centers(x, n_components, seed_draws(step, n_components), processes)
    mixture = _lloyd(backend, x, centers, n_iter - n_em, processes, origin)
    mixture = _em(backend, x, mixture, n_em, reg_covar, processes, origin)
    return mixture._replace(means=mixture.means + origin)


def lloyd(
    x: Tensor, centers: Tensor, n_iter: int, processes: Processes = ALONE, origin: Tensor | None = None
) -> Mixture:
    """Run ``n_iter`` >= 1 Lloyd iterations of k-means from ``centers`` ``(G, K, D)``.

    Args:
        x: observations, ``(G, B, M, D)``.
        centers: to start from.
        n_iter: number of assignments to the nearest centre.
        processes: those that have the rows between them.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Returns:
        The mixture of the last hard assignment: weight, mean and variance of each cluster. A cluster
        that lost all its rows keeps its centre and has weight 0.

    Examples:
        >>> x = torch.tensor([0.0, 2.0, 7.0, 9.0]).reshape(1, 1, 4, 1)
        >>> lloyd(x, centers=torch.tensor([[[0.0], [2.0]]]), n_iter=3).means.flatten()
        tensor([1., 8.])
    """
    gpu = gpu_kernels(x, centers.shape[1], processes, x.shape[-1]) if len(x) == 1 else None
    if gpu is not None:
        found: Mixture = gpu.lloyd(x, centers, n_iter, origin)
        return found
    return _lloyd(backend_for_rows(x), x, centers, n_iter, processes, origin)


def em(
    x: Tensor,
    mixture: Mixture,
    n_iter: int,
    reg_covar: float,
    processes: Processes = ALONE,
    origin: Tensor | None = None,
) -> Mixture:
    """Run ``n_iter`` >= 0 iterations of expectation maximization from ``mixture``.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        n_iter: number of E and M steps.
        reg_covar: added to the variances in densities.
        processes: those that have the rows between them.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Returns:
        Mixture of the same shapes.

    Examples:
        >>> from mn_lightning.gmm import log_joint
        >>> x = torch.randn(1, 1, 200, 3)
        >>> start = lloyd(x, centers=x[:, 0, :2], n_iter=1)
        >>> before, after = (log_joint(x, m, 1e-6).logsumexp(-1).mean() for m in (start, em(x, start, 10, 1e-6)))
        >>> bool(after > before)  # the log-likelihood never falls
        True
    """
    gpu = gpu_kernels(x, mixture.weights.shape[1], processes, x.shape[-1]) if len(x) == 1 else None
    if gpu is not None:
        found: Mixture = gpu.em(x, mixture, n_iter, reg_covar, origin)
        return found
    return _em(backend_for_rows(x), x, mixture, n_iter, reg_covar, processes, origin)


def _lloyd(
    backend: ModuleType, x: Tensor, centers: Tensor, n_iter: int, processes: Processes, origin: Tensor | None
) -> Mixture:
    for _ in range(n_iter):
        mixture = maximization(backend.lloyd_sums(x, centers, origin, processes), centers)
        centers = mixture.means
    return mixture


def _em(
    backend: ModuleType,
    x: Tensor,
    mixture: Mixture,
    n_iter: int,
    reg_covar: float,
    processes: Processes,
    origin: Tensor | None,
) -> Mixture:
    for _ in range(n_iter):
        mixture = maximization(backend.em_sums(x, mixture, reg_covar, origin, processes), mixture.means)
    return mixture


def maximization(sums: Sums, previous_means: Tensor) -> Mixture:
    """M step: the mixture that maximizes the expected log-likelihood under posteriors.

    A component that no row belongs to keeps its previous mean and gets weight 0.

    Args:
        sums: of the rows under the posteriors.
        previous_means: ``(G, K, D)``.

    Returns:
        Weights ``(G, K)``, means and variances ``(G, K, D)``.

    Examples:
        >>> rows = torch.tensor([[0.0], [2.0]])  # all of the one component
        >>> sums = Sums(torch.tensor([[2.0]]), rows.sum(0)[None, None], rows.square().sum(0)[None, None])
        >>> mixture = maximization(sums, previous_means=torch.zeros(1, 1, 1))
        >>> float(mixture.means), float(mixture.variances)
        (1.0, 1.0)
    """
    occupied = (sums.counts > 0).unsqueeze(-1)
    total = sums.counts.clamp_min(torch.finfo(sums.counts.dtype).tiny).unsqueeze(-1)
    means = torch.where(occupied, sums.first / total, previous_means)
    variances = sums.second / total - means.square()
    return Mixture(weights_of(sums.counts), means, variances.clamp_min(0))
