"""Diagonal-covariance Gaussian mixtures, fitted with a fixed number of operations and no host synchronization.

Every function takes observations ``x`` of shape ``(G, B, M, D)``: G independent mixtures fitted side by side,
each to B blocks of M rows with D features. A matrix ``X`` of shape (M, D) as scikit-learn takes it is
``X[None, None]``. Blocks let an activation ``(N, C, L)`` be passed as the transposed view ``(1, N, L, C)``, without a
copy. Where a batch is spread over several processes, each passes its own rows, and all get the same mixture: sums over
rows go through :class:`~mn_lightning._processes.Processes`.

The functions expect centred data: distances and densities are expanded into matrix products, which lose digits
when the data's mean is large against its spread. :func:`mn_lightning.functional.fit_mixture` does the centring.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning._processes import ALONE, Processes
from mn_lightning._random import integers, uniform

SEED_ROWS = 4096
"""k-means++ looks at no more than this many random rows: seeds need a picture of the data, not all of it."""


class Mixture(NamedTuple):
    """Parameters of G diagonal-covariance mixtures of K Gaussians; a component that is not in use has weight 0.

    Attributes:
        weights: mixing proportions λ (Eq. 26), ``(G, K)``, each row summing to 1.
        means: component means μ, ``(G, K, D)``.
        variances: component variances σ², biased and without regularization, ``(G, K, D)``.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor


def _sum_over_rows(resp: Tensor, x: Tensor) -> Tensor:
    """Σ_i resp_ik x_id over all blocks and rows: ``(G, B, M, K), (G, B, M, D) -> (G, K, D)``."""
    return (resp.mT @ x).sum(1)


def squared_distances(x: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances, ``(G, R, D), (G, T, D) -> (G, T, R)``."""
    cross = centers @ x.mT
    distances = centers.square().sum(-1).unsqueeze(-1) + x.square().sum(-1).unsqueeze(-2) - 2 * cross
    return distances.clamp_min(0)  # the expansion can round a zero distance to just below zero


def n_seeding_draws(n_components: int) -> int:
    """How many uniform numbers :func:`kmeans_plus_plus` needs for ``n_components`` centres."""
    return 1 + (n_components - 1) * _n_candidates(n_components)


def _n_candidates(n_components: int) -> int:
    return 2 + int(math.log(n_components))


def kmeans_plus_plus(
    x: Tensor,
    n_components: int,
    draws: Tensor,
    own: Tensor | None = None,
    total: Tensor | None = None,
    processes: Processes = ALONE,
) -> Tensor:
    """Choose initial centres among the rows by greedy k-means++ (Arthur & Vassilvitskii 2007).

    Each centre after the first is the best, by the sum of squared distances that it leaves, of 2 + int(ln K)
    candidates drawn with probability proportional to the squared distance to the nearest centre so far.

    Args:
        x: rows to choose from, ``(G, R, D)``; with several processes, each has zeros for the rows of others.
        n_components: number of centres K; it may exceed the number of distinct rows, some then coincide.
        draws: uniform numbers in [0, 1), ``(n_seeding_draws(K),)``.
        own: with several processes, which of the R rows this one has, bool ``(R,)``.
        total: with several processes, how many of the R rows there are, 0-d.
        processes: those that have the rows between them.

    Returns:
        Centres, ``(G, K, D)``.
    """
    groups, rows, features = x.shape
    candidates = _n_candidates(n_components)
    first = (draws[0] * (rows if total is None else total)).long().clamp_max(rows - 1)
    (center,) = processes.sum(x.index_select(1, first.reshape(1)))
    centers = [center]
    closest = _masked(squared_distances(x, center), own)
    for k in range(1, n_components):
        u = draws[1 + (k - 1) * candidates : 1 + k * candidates].to(x.dtype)
        (everywhere,) = processes.sum(closest)
        cumulative = everywhere.squeeze(1).cumsum(-1)
        picks = torch.searchsorted(cumulative, (cumulative[:, -1:] * u).contiguous()).clamp_max(rows - 1)
        (options,) = processes.sum(x.gather(1, picks.unsqueeze(-1).expand(groups, candidates, features)))
        closest_with = torch.minimum(closest, _masked(squared_distances(x, options), own))
        (left,) = processes.sum(closest_with.sum(-1))
        best = left.argmin(-1).reshape(groups, 1, 1)
        centers.append(options.gather(1, best.expand(groups, 1, features)))
        closest = closest_with.gather(1, best.expand(groups, 1, rows))
    return torch.cat(centers, dim=1)


def _masked(distances: Tensor, own: Tensor | None) -> Tensor:
    return distances if own is None else distances * own


def maximization(x: Tensor, resp: Tensor, previous_means: Tensor, processes: Processes = ALONE) -> Mixture:
    """M step: the mixture that maximizes the expected log-likelihood under responsibilities ``(G, B, M, K)``.

    A component with no responsibility for any row keeps its previous mean and gets weight 0.
    """
    counts, first, second = processes.sum(resp.sum((1, 2)), _sum_over_rows(resp, x), _sum_over_rows(resp, x.square()))
    occupied = (counts > 0).unsqueeze(-1)
    total = counts.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    means = torch.where(occupied, first / total, previous_means)
    variances = second / total - means.square()
    return Mixture(counts / counts.sum(-1, keepdim=True), means, variances.clamp_min(0))


def lloyd(x: Tensor, centers: Tensor, n_iter: int, processes: Processes = ALONE) -> Mixture:
    """Run ``n_iter`` >= 1 Lloyd iterations of k-means from ``centers`` ``(G, K, D)``.

    Returns:
        The mixture of the last hard assignment: share of the rows, mean and variance of each cluster. A cluster
        that lost all its rows keeps its centre and has weight 0.
    """
    index = torch.arange(centers.shape[1], device=x.device)
    for _ in range(n_iter - 1):
        resp = _nearest(x, centers, index)
        counts, sums = processes.sum(resp.sum((1, 2)), _sum_over_rows(resp, x))
        counts = counts.unsqueeze(-1)
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
    return maximization(x, _nearest(x, centers, index), centers, processes)


def _nearest(x: Tensor, centers: Tensor, index: Tensor) -> Tensor:
    """One-hot assignment to the nearest centre, ``(G, B, M, K)``; |x|² is the same for all and left out."""
    affinity = x @ centers.mT.unsqueeze(1) - centers.square().sum(-1)[:, None, None] / 2
    return (affinity.argmax(-1, keepdim=True) == index).to(x.dtype)


def log_joint(x: Tensor, mixture: Mixture, reg_covar: float) -> Tensor:
    """Return log λ_k + log p_k(x_i) (Eqs. 26-27), ``(G, B, M, K)``; finite also far from all components.

    ``reg_covar`` is added to the variances, as in scikit-learn.
    """
    variances = mixture.variances + reg_covar
    precision = variances.reciprocal()
    scaled_means = mixture.means * precision
    constant = (variances.log() + mixture.means * scaled_means + math.log(2 * math.pi)).sum(-1)
    quadratic = x.square() @ precision.mT.unsqueeze(1) - 2 * (x @ scaled_means.mT.unsqueeze(1))
    joint = mixture.weights.log()[:, None, None] - (quadratic + constant[:, None, None]) / 2
    # One -inf for all components would make a NaN of the softmax over them.
    return joint.clamp_min(torch.finfo(x.dtype).min / 4)


def em(x: Tensor, mixture: Mixture, n_iter: int, reg_covar: float, processes: Processes = ALONE) -> Mixture:
    """Run ``n_iter`` >= 0 iterations of expectation maximization from ``mixture``."""
    for _ in range(n_iter):
        mixture = maximization(x, posteriors(x, mixture, reg_covar), mixture.means, processes)
    return mixture


def posteriors(x: Tensor, mixture: Mixture, reg_covar: float) -> Tensor:
    """Return ν_k(x_i) (Eq. 31), ``(G, B, M, K)``; exactly 0 for a component of weight 0."""
    unused = (mixture.weights == 0)[:, None, None]
    return log_joint(x, mixture, reg_covar).masked_fill(unused, -math.inf).softmax(-1)


def prune(joint: Tensor, min_weight: float, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Drop components that hold less than ``min_weight`` of the rows, and share their rows among the others.

    The sharing is done on the log scale, so that a row far from all that is left goes to the most likely of them
    instead of vanishing. The heaviest component is never dropped.

    Args:
        joint: :func:`log_joint` of the rows, ``(G, B, M, K)``.
        min_weight: smallest share λ_k of the rows to keep a component.
        processes: those that have the rows between them.

    Returns:
        ν renormalized over the components in use, ``(G, B, M, K)``, and its sum λM over the rows, ``(G, K)``; both
        are 0 for a dropped component.
    """
    (counts,) = processes.sum(joint.softmax(-1).sum((1, 2)))
    share = counts / counts.sum(-1, keepdim=True)
    kept = (share >= min_weight) | (share == share.amax(-1, keepdim=True))
    nu = joint.masked_fill(~kept[:, None, None], -math.inf).softmax(-1)
    (counts,) = processes.sum(nu.sum((1, 2)))
    return nu, counts


def fit(
    x: Tensor, n_components: int, n_iter: int, step: Tensor, reg_covar: float, processes: Processes = ALONE
) -> Mixture:
    """Fit by greedy k-means++, then Lloyd iterations, then EM; ``n_iter`` counts both phases, as the papers do.

    An odd count gives the extra iteration to Lloyd.

    Args:
        x: centred observations, ``(G, B, M, D)``.
        n_components: K >= 1.
        n_iter: iterations in all, >= 1.
        step: int64 tensor with one element, from which all random choices are made.
        reg_covar: added to the variances in densities.
        processes: those that have the rows between them; each passes its own and gets the mixture of all.
    """
    n_em = n_iter // 2
    draws = uniform(step, n_seeding_draws(n_components))
    if processes.size == 1:
        centers = kmeans_plus_plus(_seed_rows(x, step), n_components, draws)
    else:
        seeds, own, total = _shared_seed_rows(x, step, processes)
        centers = kmeans_plus_plus(seeds, n_components, draws, own, total, processes)
    return em(x, lloyd(x, centers, n_iter - n_em, processes), n_em, reg_covar, processes)


def _seed_rows(x: Tensor, step: Tensor) -> Tensor:
    """At most SEED_ROWS random rows (with replacement), ``(G, R, D)``."""
    groups, blocks, rows, features = x.shape
    if blocks * rows <= SEED_ROWS:
        return x.reshape(groups, blocks * rows, features)
    index = integers(step, SEED_ROWS, blocks * rows, stream=1)
    return x[:, index // rows, index % rows]


def _shared_seed_rows(x: Tensor, step: Tensor, processes: Processes) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the rows that :func:`_seed_rows` would choose from the rows of all processes, one after the other.

    Returns:
        The SEED_ROWS rows, ``(G, R, D)``, with zeros for those of other processes; which of them are this one's,
        ``(R,)``; how many there are.
    """
    groups, blocks, rows, features = x.shape
    mine = blocks * rows
    slots = torch.arange(SEED_ROWS, device=x.device)
    (counts,) = processes.sum(processes.mine(torch.full((), mine, device=x.device)))
    total = counts.sum()
    index = torch.where(total <= SEED_ROWS, slots, integers(step, SEED_ROWS, total, stream=1))
    index = index - counts.cumsum(0)[processes.rank] + mine
    own = (index >= 0) & (index < mine)
    if mine == 0:
        return x.new_zeros(groups, SEED_ROWS, features), own, total.clamp_max(SEED_ROWS)
    index = index.clamp(0, mine - 1)
    return x[:, index // rows, index % rows] * own.unsqueeze(-1), own, total.clamp_max(SEED_ROWS)
