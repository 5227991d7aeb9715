"""Diagonal-covariance Gaussian mixtures, fitted with a fixed number of operations and no host synchronization.

Every function takes observations ``x`` of shape ``(G, B, M, D)``: G independent mixtures fitted side by side,
each to B blocks of M rows with D features. A matrix ``X`` of shape (M, D) as scikit-learn takes it is
``X[None, None]``. Blocks let an activation ``(N, C, L)`` be passed as the transposed view ``(1, N, L, C)``, without a
copy. Where a batch is spread over several processes, each passes its own rows, and all get the same mixture: sums over
rows go through :class:`~mn_lightning.utils.distributed.Processes`.

Distances and densities are expanded into matrix products of rows and their squares, which lose digits when the data's
mean is large against its spread. Rows are therefore taken relative to an ``origin`` ``(G, 1, D)`` somewhere in the data
(see :func:`rough_mean`), and so are all means that go in and come out.

Examples:
    >>> x = torch.cat([torch.randn(300, 2) - 4, torch.randn(100, 2) + 4])[None, None]
    >>> mixture = fit(x, n_components=2, n_iter=6, step=torch.tensor(0), reg_covar=1e-5)
    >>> mixture.weights.sort().values
    tensor([[0.2500, 0.7500]])
    >>> posteriors(x, mixture, reg_covar=1e-5).shape
    torch.Size([1, 1, 400, 2])
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning.kernels.pieces import Place, readings, with_squares
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.random import integers, stratified, uniform

SEED_ROWS = 1024
"""k-means++ looks at no more than this many random rows: seeds need a picture of the data, not all of it."""


class Mixture(NamedTuple):
    """Parameters of G diagonal-covariance mixtures of K Gaussians; a component that is not in use has weight 0.

    Attributes:
        weights: mixing proportions λ (Eq. 26), ``(G, K)``, each row summing to 1.
        means: component means μ, ``(G, K, D)``.
        variances: component variances σ², biased and without regularization, ``(G, K, D)``.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.5, 0.5]]), torch.randn(1, 2, 3), torch.ones(1, 2, 3))
        >>> weights, means, variances = mixture
    """

    weights: Tensor
    means: Tensor
    variances: Tensor


class Sums(NamedTuple):
    """Sums over rows under responsibilities: all that an M step, or the moments of Eqs. 35-36, need of the data.

    Attributes:
        counts: Σ_i r_ik, ``(G, K)``.
        first: Σ_i r_ik x_i, ``(G, K, D)``.
        second: Σ_i r_ik x_i², ``(G, K, D)``.

    Examples:
        >>> x, resp = torch.randn(100, 3), torch.rand(100, 2).softmax(-1)
        >>> sums = Sums(resp.sum(0)[None], (resp.mT @ x)[None], (resp.mT @ x.square())[None])
    """

    counts: Tensor
    first: Tensor
    second: Tensor


def _sums(
    pieces: Iterable[tuple[Place, Tensor]],
    responsibilities: Callable[[Place, Tensor], Tensor],
    processes: Processes = ALONE,
) -> Sums:
    """Read the rows once: find each piece's responsibilities ``(G, b, K, m)``, and sum up under them."""
    parts = [_sums_of(z, responsibilities(place, z)) for place, z in pieces]
    counts, moments = zip(*parts, strict=True)
    return Sums(*processes.sum(_add(counts), *_add(moments).chunk(2, dim=-1)))


def _sums_of(z: Tensor, resp: Tensor) -> tuple[Tensor, Tensor]:
    return resp.sum((1, 3)), (resp @ z.mT).sum(1)


def _add(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def rough_mean(x: Tensor, processes: Processes = ALONE) -> Tensor:
    """Mean of some rows of every block, ``(G, B, M, D) -> (G, 1, D)``: an origin, found without reading them all.

    Examples:
        >>> rough_mean(torch.full((1, 2, 10, 1), 7.0))
        tensor([[[7.]]])
    """
    some = x[:, :, : max(1, SEED_ROWS // max(1, x.shape[1]))]
    total, rows = processes.sum(some.sum((1, 2)), x.new_full((), some.shape[1] * some.shape[2]))
    return (total / rows).unsqueeze(1)


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


def maximization(sums: Sums, previous_means: Tensor) -> Mixture:
    """M step: the mixture that maximizes the expected log-likelihood under responsibilities.

    A component with no responsibility for any row keeps its previous mean and gets weight 0.

    Args:
        sums: of the rows under the responsibilities.
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
    return Mixture(sums.counts / sums.counts.sum(-1, keepdim=True), means, variances.clamp_min(0))


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
        The mixture of the last hard assignment: share of the rows, mean and variance of each cluster. A cluster
        that lost all its rows keeps its centre and has weight 0.

    Examples:
        >>> x = torch.tensor([0.0, 2.0, 7.0, 9.0]).reshape(1, 1, 4, 1)
        >>> lloyd(x, centers=torch.tensor([[[0.0], [2.0]]]), n_iter=3).means.flatten()
        tensor([1., 8.])
    """
    read = readings(x, origin, n_iter)
    for _ in range(n_iter):
        mixture = maximization(_sums(read(), _Nearest(centers), processes), centers)
        centers = mixture.means
    return mixture


class _Nearest:
    """One-hot assignment of rows with squares ``(G, b, 2D, m)`` to the nearest centre, the first of several."""

    def __init__(self, centers: Tensor) -> None:
        self.centers = centers.unsqueeze(1)
        self.half_norm = self.centers.square().sum(-1, keepdim=True) / 2

    def __call__(self, _: Place, z: Tensor) -> Tensor:
        # |x|² is the same for all and left out.
        affinity = self.centers @ z[:, :, : self.centers.shape[-1]] - self.half_norm
        # argmax over any dimension but the last is slow on CPUs, and it would have to be made one-hot afterwards.
        nearest = (affinity == affinity.amax(2, keepdim=True)).to(z.dtype)
        return nearest * (nearest.cumsum(2) <= 1)


class _LogJoint:
    """:func:`log_joint` of rows with squares, ``(G, b, 2D, m) -> (G, b, K, m)``."""

    def __init__(self, mixture: Mixture, reg_covar: float) -> None:
        variances = mixture.variances + reg_covar
        precision = variances.reciprocal()
        scaled_means = mixture.means * precision
        constant = (variances.log() + mixture.means * scaled_means + math.log(2 * math.pi)).sum(-1)
        self.factors = torch.cat([scaled_means, -precision / 2], dim=-1).unsqueeze(1)
        self.constant = (mixture.weights.log() - constant / 2)[:, None, :, None]
        # One -inf for all components would make a NaN of the softmax over them.
        self.lowest = torch.finfo(variances.dtype).min / 4

    def __call__(self, z: Tensor) -> Tensor:
        return (self.factors @ z + self.constant).clamp_min(self.lowest)


class Posteriors:
    """:func:`posteriors` of one piece of the rows, with their squares, ``(G, b, 2D, m) -> (G, b, K, m)``.

    Args:
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: added to the variances.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.5, 0.5]]), torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2, 1))
        >>> [Posteriors(mixture, 0.0)(place, z).flatten() for place, z in with_squares(torch.zeros(1, 1, 1, 1))]
        [tensor([0.5000, 0.5000])]
    """

    def __init__(self, mixture: Mixture, reg_covar: float) -> None:
        self.log_joint = _LogJoint(mixture, reg_covar)
        self.unused = (mixture.weights == 0)[:, None, :, None]

    def __call__(self, _: Place, z: Tensor) -> Tensor:
        """Return ν of the piece."""
        return self.log_joint(z).masked_fill(self.unused, -math.inf).softmax(2)


def log_joint(x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None = None) -> Tensor:
    """Return log λ_k + log p_k(x_i) (Eqs. 26-27), ``(G, B, M, K)``; finite also far from all components.

    ``reg_covar`` is added to the variances, as in scikit-learn.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: in squared units of ``x``.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Examples:
        >>> normal = Mixture(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        >>> log_joint(torch.zeros(1, 1, 1, 1), normal, reg_covar=0.0).exp()  # 1 / sqrt(2 π)
        tensor([[[[0.3989]]]])
    """
    function = _LogJoint(mixture, reg_covar)
    return _for_each_row(x, lambda _, z: function(z), mixture, origin)


def _for_each_row(
    x: Tensor, function: Callable[[Place, Tensor], Tensor], mixture: Mixture, origin: Tensor | None
) -> Tensor:
    """Values ``(G, B, M, K)`` of all rows, with the component's row in memory in one piece."""
    parts = [(place, function(place, z)) for place, z in with_squares(x, origin)]
    if len(parts) == 1:
        return parts[0][1].mT
    values = x.new_empty(x.shape[0], x.shape[1], mixture.weights.shape[-1], x.shape[2])
    for (blocks, rows), part in parts:
        values[:, blocks, :, rows] = part
    return values.mT


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
        >>> x = torch.randn(1, 1, 200, 3)
        >>> start = lloyd(x, centers=x[:, 0, :2], n_iter=1)
        >>> before, after = (log_joint(x, m, 1e-6).logsumexp(-1).mean() for m in (start, em(x, start, 10, 1e-6)))
        >>> bool(after > before)  # the log-likelihood never falls
        True
    """
    read = readings(x, origin, n_iter)
    for _ in range(n_iter):
        mixture = maximization(_sums(read(), Posteriors(mixture, reg_covar), processes), mixture.means)
    return mixture


def posteriors(x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None = None) -> Tensor:
    """Return ν_k(x_i) (Eq. 31), ``(G, B, M, K)``; exactly 0 for a component of weight 0.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: added to the variances.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.5, 0.5]]), torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2, 1))
        >>> posteriors(torch.zeros(1, 1, 1, 1), mixture, reg_covar=0.0)
        tensor([[[[0.5000, 0.5000]]]])
    """
    return _for_each_row(x, Posteriors(mixture, reg_covar), mixture, origin)


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

    Examples:
        >>> joint = torch.tensor([[0.9, 0.1], [0.995, 0.005]]).log()[None, None]
        >>> nu, counts = prune(joint, min_weight=0.1)  # the second holds 5% of the rows
        >>> counts
        tensor([[2., 0.]])
    """
    joint = joint.mT  # a component's values for all rows are in one piece of memory, which makes the softmax a fast one
    (counts,) = processes.sum(joint.softmax(2).sum((1, 3)))
    nu = joint.masked_fill(~_kept(counts, min_weight)[:, None, :, None], -math.inf).softmax(2)
    (counts,) = processes.sum(nu.sum((1, 3)))
    return nu.mT, counts


def _kept(counts: Tensor, min_weight: float) -> Tensor:
    share = counts / counts.sum(-1, keepdim=True)
    return (share >= min_weight) | (share == share.amax(-1, keepdim=True))


def claims(
    x: Tensor, mixture: Mixture, reg_covar: float, min_weight: float, origin: Tensor | None = None
) -> tuple[Tensor, Sums]:
    """What :func:`prune` makes of the rows' posteriors, and the sums under them, for CPUs.

    It takes one reading of the rows, and more only if a component has to be dropped.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: added to the variances in densities.
        min_weight: smallest share λ_k of the rows to keep a component.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Returns:
        ν, ``(G, B, M, K)``, and its sums over the rows.

    Examples:
        >>> x = torch.randn(1, 1, 100, 3)
        >>> mixture = fit(x, n_components=2, n_iter=2, step=torch.tensor(0), reg_covar=1e-5)
        >>> nu, sums = claims(x, mixture, reg_covar=1e-5, min_weight=0.01)
        >>> nu.shape, sums.first.shape
        (torch.Size([1, 1, 100, 2]), torch.Size([1, 2, 3]))
    """
    log_joint_of = _LogJoint(mixture, reg_covar)
    nu = x.new_empty(x.shape[0], x.shape[1], mixture.weights.shape[-1], x.shape[2])

    def posterior(place: Place, z: Tensor) -> Tensor:
        part = log_joint_of(z).softmax(2)
        nu[:, place[0], :, place[1]] = part
        return part

    sums = _sums(with_squares(x, origin), posterior)
    if not _kept(sums.counts, min_weight).all():
        nu = prune(log_joint(x, mixture, reg_covar, origin), min_weight)[0].mT
        sums = _sums(with_squares(x, origin), lambda place, _: nu[:, place[0], :, place[1]])
    return nu.mT, sums


def fit(
    x: Tensor,
    n_components: int,
    n_iter: int,
    step: Tensor,
    reg_covar: float,
    processes: Processes = ALONE,
    origin: Tensor | None = None,
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
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Returns:
        Weights ``(G, K)``, means and variances ``(G, K, D)``.

    Examples:
        >>> x = torch.randn(1, 1, 500, 8)
        >>> mixture = fit(x, n_components=3, n_iter=2, step=torch.tensor(0), reg_covar=1e-5)
        >>> [tuple(part.shape) for part in mixture]
        [(1, 3), (1, 3, 8), (1, 3, 8)]
    """
    n_em = n_iter // 2
    draws = uniform(step, n_seeding_draws(n_components))
    if processes.size == 1:
        seeds = _seed_rows(x, step)
        centers = kmeans_plus_plus(seeds if origin is None else seeds - origin, n_components, draws)
    else:
        seeds, own, total = _shared_seed_rows(x, step, processes)
        seeds = seeds if origin is None else (seeds - origin) * own.unsqueeze(-1)
        centers = kmeans_plus_plus(seeds, n_components, draws, own, total, processes)
    mixture = lloyd(x, centers, n_iter - n_em, processes, origin)
    return em(x, mixture, n_em, reg_covar, processes, origin)


def _seed_rows(x: Tensor, step: Tensor) -> Tensor:
    """At most SEED_ROWS random rows (with replacement), ``(G, R, D)``."""
    groups, blocks, rows, features = x.shape
    if blocks * rows <= SEED_ROWS:
        return x.reshape(groups, blocks * rows, features)
    index = integers(step, SEED_ROWS, blocks * rows, stream=1)
    return x[:, index // rows, index % rows]


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
    index = stratified(step, count, x.shape[1] * rows, stream=2)
    return x[:, index // rows, index % rows].unsqueeze(1)


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
