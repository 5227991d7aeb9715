"""Which rows a fit starts from: greedy k-means++, and the random rows that it looks at."""

import math

import torch
from torch import Tensor

from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.random import Stream, integers, stratified, uniform

SEED_ROWS = 1024
"""k-means++ looks at no more than this many random rows: seeds need a picture of the data, not all of it."""


def seed_centers(
    x: Tensor, n_components: int, step: Tensor, processes: Processes = ALONE, origin: Tensor | None = None
) -> Tensor:
    """Choose the centres that a fit starts from, ``(G, K, D)``, by k-means++ on random rows of ``(G, B, M, D)``."""
    draws = uniform(step, n_seeding_draws(n_components), Stream.KMEANS)
    if processes.size == 1:
        seeds = _seed_rows(x, step)
        return kmeans_plus_plus(seeds if origin is None else seeds - origin, n_components, draws)
    seeds, own, total = _shared_seed_rows(x, step, processes)
    seeds = seeds if origin is None else (seeds - origin) * own.unsqueeze(-1)
    return kmeans_plus_plus(seeds, n_components, draws, own, total, processes)


def rough_mean(x: Tensor, processes: Processes = ALONE) -> Tensor:
    """Mean of some rows of every block, ``(G, B, M, D) -> (G, 1, D)``: an origin, found without reading them all.

    Examples:
        >>> rough_mean(torch.full((1, 2, 10, 1), 7.0))
        tensor([[[7.]]])
    """
    some = x[:, :, : max(1, SEED_ROWS // max(1, x.shape[1]))]
    total, rows = processes.sum(some.sum((1, 2)), x.new_full((), some.shape[1] * some.shape[2]))
    return (total / rows).unsqueeze(1)


def subsample(x: Tensor, count: int, step: Tensor) -> Tensor:
    """``count`` of the rows, at random without replacement: ``(G, 1, count, D)``, or all if there are less.

    ``step`` is an int64 tensor with one element, of which the choice is a function.

    Examples:
        >>> subsample(torch.zeros(1, 4, 50, 3), 20, torch.tensor(0)).shape
        torch.Size([1, 1, 20, 3])
    """
    rows = x.shape[2]
    if x.shape[1] * rows <= count:
        return x
    index = stratified(step, count, x.shape[1] * rows, Stream.FIT_ROWS)
    return x[:, index // rows, index % rows].unsqueeze(1)


def squared_distances(x: Tensor, centers: Tensor) -> Tensor:
    """Squared Euclidean distances, ``(G, R, D), (G, T, D) -> (G, T, R)``.

    Examples:
        >>> squared_distances(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.zeros(1, 1, 2))
        tensor([[[ 0., 25.]]])
    """
    cross = centers @ x.mT
    distances = centers.square().sum(-1).unsqueeze(-1) + x.square().sum(-1).unsqueeze(-2) - 2 * cross
    return distances.clamp_min(0)  # the expansion can round a zero distance to just below zero


def n_seeding_draws(n_components: int) -> int:
    """How many uniform numbers :func:`kmeans_plus_plus` needs for ``n_components`` centres.

    Examples:
        >>> n_seeding_draws(3)  # one for the first centre, 2 + int(ln 3) = 3 candidates for each other
        7
    """
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

    Examples:
        >>> x = torch.tensor([[[0.0], [0.1], [9.0], [9.1]]])
        >>> centers = kmeans_plus_plus(x, 2, draws=torch.full((n_seeding_draws(2),), 0.5))
        >>> centers.round().flatten().sort().values
        tensor([0., 9.])
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


def _seed_rows(x: Tensor, step: Tensor) -> Tensor:
    """At most SEED_ROWS random rows (with replacement), ``(G, R, D)``."""
    groups, blocks, rows, features = x.shape
    if blocks * rows <= SEED_ROWS:
        return x.reshape(groups, blocks * rows, features)
    index = integers(step, SEED_ROWS, blocks * rows, Stream.SEED_ROWS)
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
    index = torch.where(total <= SEED_ROWS, slots, integers(step, SEED_ROWS, total, Stream.SEED_ROWS))
    index = index - counts.cumsum(0)[processes.rank] + mine
    own = (index >= 0) & (index < mine)
    if mine == 0:
        return x.new_zeros(groups, SEED_ROWS, features), own, total.clamp_max(SEED_ROWS)
    index = index.clamp(0, mine - 1)
    return x[:, index // rows, index % rows] * own.unsqueeze(-1), own, total.clamp_max(SEED_ROWS)
