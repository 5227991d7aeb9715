"""Diagonal-covariance Gaussian mixtures, fitted with a fixed number of operations and no host synchronization.

Every function takes observations ``x`` of shape ``(G, B, M, D)``: G independent mixtures fitted side by side,
each to B blocks of M rows with D features. A matrix ``X`` of shape (M, D) as scikit-learn takes it is
``X[None, None]``. Blocks let an activation ``(N, C, L)`` be passed as the transposed view ``(1, N, L, C)``, without a
copy. All sums over rows are written in :func:`_sum_over_rows`.

The functions expect centred data: distances and densities are expanded into matrix products, which lose digits
when the data's mean is large against its spread. :func:`mn_lightning.functional.fit_mixture` does the centring.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning._random import uniform

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


def kmeans_plus_plus(x: Tensor, n_components: int, draws: Tensor) -> Tensor:
    """Choose initial centres among the rows by greedy k-means++ (Arthur & Vassilvitskii 2007).

    Each centre after the first is the best, by the sum of squared distances that it leaves, of 2 + int(ln K)
    candidates drawn with probability proportional to the squared distance to the nearest centre so far.

    Args:
        x: rows to choose from, ``(G, R, D)``.
        n_components: number of centres K; it may exceed the number of distinct rows, some then coincide.
        draws: uniform numbers in [0, 1), ``(n_seeding_draws(K),)``.

    Returns:
        Centres, ``(G, K, D)``.
    """
    groups, rows, features = x.shape
    candidates = _n_candidates(n_components)
    first = (draws[0] * rows).long().clamp_max(rows - 1)
    centers = [x.index_select(1, first.reshape(1))]
    closest = squared_distances(x, centers[0])
    for k in range(1, n_components):
        u = draws[1 + (k - 1) * candidates : 1 + k * candidates].to(x.dtype)
        cumulative = closest.squeeze(1).cumsum(-1)
        picks = torch.searchsorted(cumulative, (cumulative[:, -1:] * u).contiguous()).clamp_max(rows - 1)
        options = x.gather(1, picks.unsqueeze(-1).expand(groups, candidates, features))
        closest_with = torch.minimum(closest, squared_distances(x, options))
        best = closest_with.sum(-1).argmin(-1).reshape(groups, 1, 1)
        centers.append(options.gather(1, best.expand(groups, 1, features)))
        closest = closest_with.gather(1, best.expand(groups, 1, rows))
    return torch.cat(centers, dim=1)


def maximization(x: Tensor, resp: Tensor, previous_means: Tensor) -> Mixture:
    """M step: the mixture that maximizes the expected log-likelihood under responsibilities ``(G, B, M, K)``.

    A component with no responsibility for any row keeps its previous mean and gets weight 0.
    """
    counts = resp.sum((1, 2))
    occupied = (counts > 0).unsqueeze(-1)
    total = counts.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    means = torch.where(occupied, _sum_over_rows(resp, x) / total, previous_means)
    variances = _sum_over_rows(resp, x.square()) / total - means.square()
    return Mixture(counts / counts.sum(-1, keepdim=True), means, variances.clamp_min(0))


def lloyd(x: Tensor, centers: Tensor, n_iter: int) -> Mixture:
    """Run ``n_iter`` >= 1 Lloyd iterations of k-means from ``centers`` ``(G, K, D)``.

    Returns:
        The mixture of the last hard assignment: share of the rows, mean and variance of each cluster. A cluster
        that lost all its rows keeps its centre and has weight 0.
    """
    index = torch.arange(centers.shape[1], device=x.device)
    for _ in range(n_iter - 1):
        resp = _nearest(x, centers, index)
        counts = resp.sum((1, 2)).unsqueeze(-1)
        centers = torch.where(counts > 0, _sum_over_rows(resp, x) / counts.clamp_min(1), centers)
    return maximization(x, _nearest(x, centers, index), centers)


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


def em(x: Tensor, mixture: Mixture, n_iter: int, reg_covar: float) -> Mixture:
    """Run ``n_iter`` >= 0 iterations of expectation maximization from ``mixture``."""
    for _ in range(n_iter):
        mixture = maximization(x, posteriors(x, mixture, reg_covar), mixture.means)
    return mixture


def posteriors(x: Tensor, mixture: Mixture, reg_covar: float) -> Tensor:
    """Return ν_k(x_i) (Eq. 31), ``(G, B, M, K)``; exactly 0 for a component of weight 0."""
    unused = (mixture.weights == 0)[:, None, None]
    return log_joint(x, mixture, reg_covar).masked_fill(unused, -math.inf).softmax(-1)


def prune(joint: Tensor, min_weight: float) -> tuple[Tensor, Tensor]:
    """Drop components that hold less than ``min_weight`` of the rows, and share their rows among the others.

    The sharing is done on the log scale, so that a row far from all that is left goes to the most likely of them
    instead of vanishing. The heaviest component is never dropped.

    Args:
        joint: :func:`log_joint` of the rows, ``(G, B, M, K)``.
        min_weight: smallest share λ_k of the rows to keep a component.

    Returns:
        ν renormalized over the components in use, ``(G, B, M, K)``, and its mean λ over the rows, ``(G, K)``; both
        are 0 for a dropped component.
    """
    share = joint.softmax(-1).mean((1, 2))
    kept = (share >= min_weight) | (share == share.amax(-1, keepdim=True))
    nu = joint.masked_fill(~kept[:, None, None], -math.inf).softmax(-1)
    return nu, nu.mean((1, 2))


def fit(x: Tensor, n_components: int, n_iter: int, step: Tensor, reg_covar: float) -> Mixture:
    """Fit by greedy k-means++, then Lloyd iterations, then EM; ``n_iter`` counts both phases, as the papers do.

    An odd count gives the extra iteration to Lloyd.

    Args:
        x: centred observations, ``(G, B, M, D)``.
        n_components: K >= 1.
        n_iter: iterations in all, >= 1.
        step: int64 tensor with one element, from which all random choices are made.
        reg_covar: added to the variances in densities.
    """
    n_em = n_iter // 2
    draws = uniform(step, n_seeding_draws(n_components))
    centers = kmeans_plus_plus(_seed_rows(x, step), n_components, draws)
    return em(x, lloyd(x, centers, n_iter - n_em), n_em, reg_covar)


def _seed_rows(x: Tensor, step: Tensor) -> Tensor:
    """At most SEED_ROWS random rows (with replacement), ``(G, R, D)``."""
    groups, blocks, rows, features = x.shape
    if blocks * rows <= SEED_ROWS:
        return x.reshape(groups, blocks * rows, features)
    u, v = uniform(step, 2 * SEED_ROWS, stream=1).chunk(2)
    return x[:, (u * blocks).long().clamp_max(blocks - 1), (v * rows).long().clamp_max(rows - 1)]
