"""Where a fit starts from: greedy k-means++ on a few random rows."""

import math

import torch
from torch import Tensor

from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.random import Stream, uniform

SEED_ROWS = 1024
"""k-means++ looks at no more than this many random rows: seeds need a picture of the data, not all of it."""


def seed_centers(x: Tensor, n_components: int, step: Tensor, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Choose the centres that a fit starts from, and a point that rows are taken relative to.

    Args:
        x: this process' rows, ``(G, B, M, D)``.
        n_components: number of centres K.
        step: int64 tensor with one element, of which the choice is a function; the same in all processes.
        processes: those that have the rows between them: the choice is the same on any number of them.

    Returns:
        Centres relative to the origin, ``(G, K, D)``; the origin, ``(G, 1, D)``, the mean of the rows looked at.
    """
    rows, own, total = _seed_rows(x, uniform(step, SEED_ROWS, Stream.SEED_ROWS), processes)
    (of_all,) = processes.sum(rows.sum(1, keepdim=True))
    origin = of_all / (rows.shape[1] if total is None else total)
    rows = rows - origin if own is None else (rows - origin) * own.unsqueeze(-1)
    draws = uniform(step, n_seeding_draws(n_components), Stream.KMEANS)
    return kmeans_plus_plus(rows, n_components, draws, own, total, processes), origin


def _seed_rows(x: Tensor, draws: Tensor, processes: Processes) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """At most SEED_ROWS random rows of all processes together, with replacement.

    Returns:
        Rows ``(G, R, D)``. With several processes zeros stand for the rows of others, and there are two more: which of
        the R rows this one has, bool ``(R,)``, and how many of them there are, 0-d.
    """
    groups, blocks, length, features = x.shape
    count = blocks * length
    draws = draws.double()  # holds the product of 24 random bits and a number of rows exactly
    if processes.size == 1:
        index = (draws * count).long()
        return (x.flatten(1, 2) if count <= SEED_ROWS else x[:, index // length, index % length]), None, None
    (counts,) = processes.sum(processes.mine(torch.full((), count, device=x.device)))
    total = counts.sum()
    index = torch.where(total <= SEED_ROWS, torch.arange(SEED_ROWS, device=x.device), (draws * total).long())
    index = index - counts.cumsum(0)[processes.rank] + count
    own = (index >= 0) & (index < count)
    index = index.clamp(0, max(count - 1, 0))
    rows = x[:, index // length, index % length] if count else x.new_zeros(groups, SEED_ROWS, features)
    return rows * own.unsqueeze(-1), own, total.clamp_max(SEED_ROWS)


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

    Examples:
        >>> x = torch.tensor([[[0.0], [0.1], [9.0], [9.1]]])
        >>> centers = kmeans_plus_plus(x, 2, draws=torch.full((n_seeding_draws(2),), 0.5))
        >>> centers.round().flatten().sort().values
        tensor([0., 9.])
    """
    groups, rows, features = x.shape
    candidates = n_candidates(n_components)
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


def n_seeding_draws(n_components: int) -> int:
    """How many uniform numbers :func:`kmeans_plus_plus` needs for ``n_components`` centres.

    Examples:
        >>> n_seeding_draws(3)  # one for the first centre, 2 + int(ln 3) = 3 candidates for each other
        7
    """
    return 1 + (n_components - 1) * n_candidates(n_components)


def n_candidates(n_components: int) -> int:
    """How many candidates there are for each centre after the first."""
    return 2 + int(math.log(n_components))


def squared_distances(x: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances, ``(G, R, D), (G, T, D) -> (G, T, R)``.

    Examples:
        >>> squared_distances(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.zeros(1, 1, 2))
        tensor([[[ 0., 25.]]])
    """
    cross = centers @ x.mT
    distances = centers.square().sum(-1).unsqueeze(-1) + x.square().sum(-1).unsqueeze(-2) - 2 * cross
    return distances.clamp_min(0)  # the expansion can round a zero distance to just below zero


def _masked(distances: Tensor, own: Tensor | None) -> Tensor:
    return distances if own is None else distances * own
