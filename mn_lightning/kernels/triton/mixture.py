"""MixtureNorm on a GPU: fit and normalization, each a fixed sequence of launches that never waits for the device.

Everything takes activations ``(N, C, *)`` in float32, bfloat16 or float16 as they are, and computes in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mn_lightning.kernels.triton import mixture_kernels as kernels
from mn_lightning.kernels.triton import seeding_kernels as seeding
from mn_lightning.kernels.triton.launch import launch, power_of_2
from mn_lightning.kernels.triton.rows import MOST_FLAGS, RowsPlan, like, plan_for_rows, planned
from mn_lightning.utils.random import Stream

SEED_ROWS = 1024
_ADD_PROGRAMS = 128
_ALL, _DRAWN, _STRATIFIED = seeding.ALL.value, seeding.DRAWN.value, seeding.STRATIFIED.value

Moments = tuple[Tensor, Tensor, Tensor]
"""Weights ``(K,)``, means and variances ``(K, C)``, float32 and contiguous."""


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, device=like.device)


def _moments(like: Tensor, components: int, features: int) -> Moments:
    return _empty(like, components), _empty(like, components, features), _empty(like, components, features)


def _sums(
    x: Tensor,
    plan: RowsPlan,
    mixture: Moments,
    shift: Tensor,
    scratch: Tensor,
    eps: float,
    nearest: bool = False,
    signals: Tensor | None = None,
    nu: Tensor | None = None,
    again: bool = False,
) -> None:
    if plan.at_once and shift is mixture[1] and not again:
        numbers = (*plan.sizes_at_once, eps, *plan.tile_at_once, nearest, nu is not None)
        launch(kernels.sums_at_once, plan.grid_at_once, (x, *mixture, scratch, nu), numbers, 4)
        return
    launch(
        kernels.sums,
        plan.grid,
        (x, *mixture, shift, signals, scratch, nu),
        (*plan.sizes, eps, plan.flags, *plan.tile, MOST_FLAGS, nearest, nu is not None, again),
    )


def _maximize(
    plan: RowsPlan,
    shift: Tensor,
    mixture: Moments,
    scratch: Tensor,
    signals: Tensor | None = None,
    again: bool = False,
    min_weight: float = 0.0,
    eps: float = 0.0,
) -> None:
    prune = signals is not None and not again
    launch(
        kernels.maximize,
        plan.adders,
        (scratch, shift, *mixture, signals),
        (
            *(plan.grid[0], plan.features, plan.components, plan.flags, min_weight, eps),
            *(plan.tile[0], _ADD_PROGRAMS, plan.add_features, MOST_FLAGS, prune, again),
        ),
    )


def gather(x: Tensor, plan: RowsPlan, step: Tensor, out: Tensor, count: int, how: int, stream: int) -> None:
    """Copy ``count`` rows, chosen as a function of ``step``, to ``out (count, C)``."""
    tile = min(plan.tile[2], 128)
    launch(
        seeding.gather,
        (-(-count // 32), -(-plan.features // tile)),
        (x, step, out),
        (count, plan.rows, plan.length, plan.features, *plan.strides, 32, tile, how, stream),
        4,
    )


def kmeans_plus_plus(seeds: Tensor, count: int, step: Tensor, means: Tensor, draws: Tensor | None = None) -> None:
    """Choose centres, ``means (K, C)``, among ``count`` rows ``seeds (count, C)``, at most SEED_ROWS.

    Args:
        seeds: the rows.
        count: how many.
        step: of which the choice is a function.
        means: written.
        draws: random numbers to take instead, for tests.
    """
    components, features = means.shape
    candidates = 2 + int(math.log(components))
    launch(
        seeding.seed,
        (1, 1),
        (seeds, step, draws, means),
        (count, features, components, candidates, power_of_2(count), power_of_2(candidates), 16, draws is not None),
        16,
    )


def fit(
    x: Tensor, step: Tensor, components: int, lloyd: int, em: int, eps: float, fit_rows: int | None = None
) -> Moments:
    """Fit by greedy k-means++, ``lloyd`` >= 1 Lloyd and ``em`` EM iterations, to all rows or ``fit_rows`` of them."""
    x, plan = planned(x, components)
    if fit_rows is not None and fit_rows < plan.rows:
        some = _empty(x, fit_rows, plan.features)
        gather(x, plan, step, some, fit_rows, _STRATIFIED, Stream.FIT_ROWS.value)
        x, plan = planned(some, components)
    mixture = _moments(x, components, plan.features)
    count = min(plan.rows, SEED_ROWS)
    scratch = _empty(x, max(plan.scratch, count * plan.features))
    how = _ALL if count == plan.rows else _DRAWN
    gather(x, plan, step, scratch, count, how, Stream.SEED_ROWS.value)
    kmeans_plus_plus(scratch, count, step, mixture[1])
    _lloyd(x, plan, mixture, scratch, lloyd)
    _em(x, plan, mixture, scratch, em, eps)
    return mixture


def _lloyd(x: Tensor, plan: RowsPlan, mixture: Moments, scratch: Tensor, n_iter: int) -> None:
    for _ in range(n_iter):
        _sums(x, plan, mixture, mixture[1], scratch, 0.0, nearest=True)
        _maximize(plan, mixture[1], mixture, scratch)


def _em(x: Tensor, plan: RowsPlan, mixture: Moments, scratch: Tensor, n_iter: int, eps: float) -> None:
    for _ in range(n_iter):
        _sums(x, plan, mixture, mixture[1], scratch, eps)
        _maximize(plan, mixture[1], mixture, scratch)


def lloyd(x: Tensor, centers: Tensor, n_iter: int) -> Moments:
    """Lloyd's algorithm for rows ``(B, M, D)`` from ``centers (K, D)``."""
    plan = plan_for_rows(x.shape, x.stride(), len(centers), x.device)
    mixture = _empty(x, len(centers)), centers.clone(), torch.empty_like(centers)
    _lloyd(x, plan, mixture, _empty(x, plan.scratch), n_iter)
    return mixture


def em(x: Tensor, mixture: Moments, n_iter: int, eps: float) -> Moments:
    """EM for rows ``(B, M, D)``."""
    weights, means, variances = mixture
    mixture = weights.clone(), means.clone(), variances.clone()
    plan = plan_for_rows(x.shape, x.stride(), len(weights), x.device)
    _em(x, plan, mixture, _empty(x, plan.scratch), n_iter, eps)
    return mixture


def posteriors_and_moments(x: Tensor, mixture: Moments, eps: float, min_weight: float) -> tuple[Tensor, Moments]:
    """Posteriors ``(K, M)`` after pruning, and the moments under them (Eqs. 31, 35, 36); a dropped weight is 0.

    The second pass does nothing unless a component has to be dropped, or the first one lost digits.
    """
    components = len(mixture[0])
    x, plan = planned(x, components)
    nu = _empty(x, components, plan.rows)
    moments = _moments(x, components, plan.features)
    scratch, signals = _empty(x, plan.scratch), _empty(x, components + plan.flags)
    _sums(x, plan, mixture, mixture[1], scratch, eps, nu=nu)
    _maximize(plan, mixture[1], moments, scratch, signals, min_weight=min_weight, eps=eps)
    _sums(x, plan, mixture, moments[1], scratch, eps, signals=signals, nu=nu, again=True)
    _maximize(plan, moments[1], moments, scratch, signals, again=True)
    return nu, moments


def apply(
    x: Tensor,
    nu: Tensor | None,
    mixture: Moments,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    inside: bool,
    sqrt: bool,
    leak: float | None,
    store: bool = False,
) -> tuple[Tensor, Tensor]:
    """Normalize; with ``nu`` None under the posteriors of ``mixture``, which are returned with ``store``.

    Args:
        x: ``(N, C, *)``.
        nu: posteriors ``(K, M)``.
        mixture: weights and moments to normalize with.
        gamma: ``(C,)``.
        beta: ``(C,)``.
        eps: added to the variances.
        inside: whether γ and β belong to the components (Eq. 37).
        sqrt: whether to divide by √λ_k.
        leak: slope below 0 of the activation inside the sum over k (Eq. 38); None for no activation.
        store: whether posteriors that are found are kept.

    Returns:
        y and ν.
    """
    x, plan = planned(x, len(mixture[0]))
    y = torch.empty_like(x)
    given = nu is not None
    if nu is None:
        nu = _empty(x, plan.components if store else 0, plan.rows)
    launch(
        kernels.apply,
        plan.tiles if given else (plan.tiles[0], 1),
        (x, nu, *mixture, gamma, beta, y),
        (
            *(*plan.sizes, eps, leak or 0.0, *plan.tile),
            *(gamma is not None, beta is not None, inside, sqrt, leak is not None, given, store),
        ),
    )
    return y, nu


def backward(
    dy: Tensor,
    x: Tensor,
    nu: Tensor,
    mixture: Moments,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    inside: bool,
    sqrt: bool,
    leak: float | None,
    through_moments: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, γ and β; the last two float32 ``(C,)``, also where there are none.

    Arguments are as in :func:`apply`; ``through_moments`` says whether the mixture's are those of x.
    """
    x, plan = planned(x, len(mixture[0]))
    dy = like(dy, x)
    features, components = plan.features, plan.components
    options = gamma is not None, beta is not None, inside, sqrt, leak is not None
    numbers = (*plan.sizes, eps, leak or 0.0, *plan.tile, *options)
    given = (x, dy, nu, *mixture, gamma, beta)
    scratch, dmoments = _empty(x, plan.scratch), _empty(x, 2, components, features)
    dx, dgamma, dbeta = torch.empty_like(x), _empty(x, features), _empty(x, features)
    if plan.at_once and leak is None:
        some = (x, dy, nu, mixture[1], scratch)
        launch(kernels.gradient_sums_at_once, plan.grid_at_once, some, (*plan.sizes_at_once, *plan.tile_at_once), 4)
    else:
        launch(kernels.gradient_sums, plan.grid, (*given, scratch), numbers)
    launch(
        kernels.gradient_maps,
        (-(-features // 32), 1),
        (scratch, *mixture, gamma, beta, dgamma, dbeta, dmoments),
        (plan.grid[0], features, components, plan.rows, eps, _ADD_PROGRAMS, 32, *options),
    )
    launch(kernels.gradient_rows, plan.tiles, (*given, dmoments, dx), (*numbers, through_moments))
    return dx, dgamma, dbeta


def all_finite(means: Tensor, variances: Tensor) -> Tensor:
    """Whether all numbers of a mixture are finite: 0-d bool."""
    finite = torch.empty((), dtype=torch.bool, device=means.device)
    launch(seeding.all_finite, (1, 1), (means, variances, finite), (means.numel(), 1024), 4)
    return finite


def push(x: Tensor, step: Tensor, finite: Tensor, pushes: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Copy rows of ``x`` into the next slot of a queue ``rows (size, capacity, C)``, if ``finite``."""
    x, plan = planned(x, 1)
    size, capacity, features = rows.shape
    count = min(plan.rows, capacity)
    how = _STRATIFIED if plan.rows > capacity else _ALL
    tile = min(plan.tile[2], 128)
    launch(
        seeding.push,
        (-(-count // 32), -(-features // tile)),
        (x, step, finite, pushes, rows, counts),
        (
            *(count, capacity, size, plan.rows, plan.length, features, *plan.strides),
            *(32, tile, how, Stream.QUEUE_ROWS.value),
        ),
        4,
    )
