"""Lloyd's algorithm and expectation maximization, for a fixed number of iterations, with torch's operations."""

import torch
from torch import Tensor

from mn_lightning.kernels.density import LogJoint, with_squares
from mn_lightning.kernels.kmeans import seed_centers
from mn_lightning.kernels.types import Mixture, Sums, weights_of
from mn_lightning.utils.distributed import ALONE, Processes


def fit(
    x: Tensor,
    n_components: int,
    n_lloyd: int,
    n_em: int,
    step: Tensor,
    reg_covar: float,
    processes: Processes = ALONE,
) -> Mixture:
    """Fit by greedy k-means++, ``n_lloyd`` >= 1 Lloyd iterations and ``n_em`` of EM; see :func:`mn_lightning.gmm.fit`.

    Args:
        x: ``(G, B, M, D)``.
        n_components: K.
        n_lloyd: assignments to the nearest centre.
        n_em: E and M steps.
        step: int64 tensor with one element, of which all random choices are a function.
        reg_covar: added to the variances in densities.
        processes: those that hold the rows between them; all get the mixture of the rows of all.
    """
    centers, origin = seed_centers(x, n_components, step, processes)
    mixture = em(x, lloyd(x, centers, n_lloyd, origin, processes), n_em, reg_covar, origin, processes)
    return mixture._replace(means=mixture.means + origin)


def lloyd(
    x: Tensor, centers: Tensor, n_iter: int, origin: Tensor | None = None, processes: Processes = ALONE
) -> Mixture:
    """Run Lloyd iterations; see :func:`mn_lightning.gmm.lloyd`."""
    for _ in range(n_iter):
        mixture = maximization(_lloyd_sums(x, centers, origin, processes), centers)
        centers = mixture.means
    return mixture


def em(
    x: Tensor,
    mixture: Mixture,
    n_iter: int,
    reg_covar: float,
    origin: Tensor | None = None,
    processes: Processes = ALONE,
) -> Mixture:
    """Run iterations of expectation maximization; see :func:`mn_lightning.gmm.em`."""
    for _ in range(n_iter):
        mixture = maximization(_em_sums(x, mixture, reg_covar, origin, processes), mixture.means)
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


def _lloyd_sums(x: Tensor, centers: Tensor, origin: Tensor | None, processes: Processes) -> Sums:
    """Assign each row to its nearest centre, the first of several, and sum up the rows of each.

    Args:
        x: ``(G, B, M, D)``.
        centers: ``(G, K, D)``, relative to ``origin``.
        origin: what the sums are relative to, ``(G, 1, D)``; 0 by default.
        processes: those that hold the rows between them; all get the sums over the rows of all.
    """
    centers = centers.unsqueeze(1)
    z = with_squares(x, origin)
    # |x|² is the same for all centres and left out.
    affinity = centers @ z[:, :, : x.shape[-1]] - centers.square().sum(-1, keepdim=True) / 2
    # argmax over any dimension but the last is slow on CPUs, and it would have to be made one-hot afterwards.
    nearest = (affinity == affinity.amax(2, keepdim=True)).to(x.dtype)
    return _sums(z, nearest * (nearest.cumsum(2) <= 1), processes)


def _em_sums(x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None, processes: Processes) -> Sums:
    """Sum up the rows under their posteriors (Eq. 31).

    Args:
        x: ``(G, B, M, D)``.
        mixture: relative to ``origin``.
        reg_covar: added to the variances.
        origin: what the sums are relative to, ``(G, 1, D)``; 0 by default.
        processes: those that hold the rows between them; all get the sums over the rows of all.
    """
    z = with_squares(x, origin)
    return _sums(z, LogJoint(mixture, reg_covar).posteriors(z), processes)


def _sums(z: Tensor, nu: Tensor, processes: Processes) -> Sums:
    """Of rows with their squares ``(G, B, 2D, M)`` under ``(G, B, K, M)``."""
    counts, moments = processes.sum(nu.sum((1, 3)), (nu @ z.mT).sum(1))
    return Sums(counts, *moments.chunk(2, dim=-1))
