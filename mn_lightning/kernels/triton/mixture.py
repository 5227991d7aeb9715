"""MixtureNorm on a GPU: one launch for fit and normalization, one for the gradients.

None of them waits for the device. Everything takes activations ``(N, C, *)`` in float32, bfloat16 or float16 as they
are, and computes in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mn_lightning.kernels.triton import mixture_kernels as kernels
from mn_lightning.kernels.triton import seeding_kernels as seeding
from mn_lightning.kernels.triton.launch import launch, launch_steps, most_programs, power_of_2
from mn_lightning.kernels.triton.rows import RowsPlan, like, plan_for_rows, planned
from mn_lightning.utils.random import Stream

SEED_ROWS = 1024
_ADDED_AT_ONCE = 256, 8
"""Parts, and features, of a tile of what is added up."""
_ALL, _DRAWN, _STRATIFIED = seeding.ALL.value, seeding.DRAWN.value, seeding.STRATIFIED.value

Moments = tuple[Tensor, Tensor, Tensor]
"""Weights ``(K,)``, means and variances ``(K, C)``, float32 and contiguous."""


def _empty(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def gather(x: Tensor, plan: RowsPlan, step: Tensor, count: int, how: int, stream: int) -> Tensor:
    """Copy ``count`` rows, chosen as a function of ``step``: ``(count, C)``."""
    out = _empty(x, count, plan.features)
    tile = min(plan.tile[2], 128)
    launch(
        seeding.gather,
        min(-(-count // 32) * -(-plan.features // tile), most_programs(x.device)),
        (x, step, out),
        (count, plan.rows, plan.length, plan.features, *plan.strides, 32, tile, how, stream),
    )
    return out


class _Map(NamedTuple):
    """How a mixture's moments are applied.

    Attributes:
        gamma: ``(C,)``.
        beta: ``(C,)``.
        inside: whether γ and β belong to the components (Eq. 37).
        sqrt: whether to divide by √λ_k.
        leak: slope below 0 of the activation inside the sum over k (Eq. 38); None for no activation.
    """

    gamma: Tensor | None = None
    beta: Tensor | None = None
    inside: bool = False
    sqrt: bool = True
    leak: float | None = None

    @property
    def flags(self) -> tuple[bool, ...]:
        """As the kernels take them."""
        return self.gamma is not None, self.beta is not None, self.inside, self.sqrt, self.leak is not None


class Fit(NamedTuple):
    """How a mixture is fitted.

    Attributes:
        lloyd: iterations of Lloyd's algorithm.
        em: iterations of EM.
        step: centres are chosen by k-means++ as a function of it; None where there are some to start from.
    """

    lloyd: int
    em: int
    step: Tensor | None = None


_NO_MAP = _Map()


def _train(
    x: Tensor,
    plan: RowsPlan,
    mixture: Moments | None,
    fit: Fit | None,
    eps: float,
    min_weight: float = 0.0,
    to: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None] = (None, None, None, None),
    how: _Map = _NO_MAP,
) -> None:
    """Start :func:`mn_lightning.kernels.triton.mixture_kernels.train`.

    Args:
        x: the rows.
        plan: for them.
        mixture: to start from, or where the fitted one goes; None if nobody wants to know it.
        fit: how, if at all.
        eps: added to the variances.
        min_weight: components with a smaller weight are dropped from the moments.
        to: where posteriors, moments, whether they are finite, and y go; the first two are None where no moments are
            wanted, the last two where no y is.
        how: to get y.
    """
    components, features = plan.components, plan.features
    nu, found, finite, y = to
    seeded = fit is not None and fit.step is not None
    count = min(plan.rows, SEED_ROWS) if seeded else 0
    candidates = 2 + int(math.log(components))
    columns = power_of_2(candidates)
    steps = 0
    scratch = plan.scratch + components + 1 + components * (1 + 2 * features)
    if fit is not None:
        steps += (2 + plan.split) * (fit.lloyd + fit.em) + (components + 2 if seeded else 0)
        scratch += count * (features + 2 * columns) + 2 * columns + (0 if nu is not None else plan.posteriors)
    if found is not None:
        steps += 2 * (2 + plan.split) + (y is not None)
    lloyd, em, step = fit or Fit(0, 0)
    launch_steps(
        kernels.train,
        steps,
        plan.programs,
        (
            *(x, step, *(mixture or (None, None, None)), how.gamma, how.beta),
            *(nu, found, finite, _empty(x, scratch), y),
        ),
        (eps, how.leak or 0.0, min_weight),
        (
            *(*plan.sizes, plan.parts, lloyd, em, count, candidates),
            *(*plan.tile, power_of_2(count), columns, *_ADDED_AT_ONCE),
            *(_ALL if count == plan.rows else _DRAWN, Stream.SEED_ROWS.value),
            *(plan.split, seeded, fit is not None, found is not None, y is not None, *how.flags),
        ),
    )


def fit(
    x: Tensor, step: Tensor, components: int, lloyd: int, em: int, eps: float, fit_rows: int | None = None
) -> Moments:
    """Fit by greedy k-means++, ``lloyd`` >= 1 Lloyd and ``em`` EM iterations, to all rows or ``fit_rows`` of them."""
    x, plan = planned(x, components)
    if fit_rows is not None and fit_rows < plan.rows:
        x, plan = planned(gather(x, plan, step, fit_rows, _STRATIFIED, Stream.FIT_ROWS.value), components)
    mixture = _empty(x, components), _empty(x, components, plan.features), _empty(x, components, plan.features)
    _train(x, plan, mixture, Fit(lloyd, em, step), eps)
    return mixture


def lloyd(x: Tensor, centers: Tensor, n_iter: int) -> Moments:
    """Lloyd's algorithm for rows ``(B, M, D)`` from ``centers (K, D)``."""
    plan = plan_for_rows(x.shape, x.stride(), len(centers), x.device)
    mixture = _empty(x, len(centers)), centers.clone(), torch.empty_like(centers)
    _train(x, plan, mixture, Fit(n_iter, 0), 0.0)
    return mixture


def em(x: Tensor, mixture: Moments, n_iter: int, eps: float) -> Moments:
    """EM for rows ``(B, M, D)``."""
    weights, means, variances = mixture
    mixture = weights.clone(), means.clone(), variances.clone()
    plan = plan_for_rows(x.shape, x.stride(), len(weights), x.device)
    if n_iter:
        _train(x, plan, mixture, Fit(0, n_iter), eps)
    return mixture


def moments(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor, eps: float, min_weight: float) -> Tensor:
    """Moments of the rows of ``x`` under a mixture's posteriors, as :func:`normalize` finds them."""
    components, mixture = len(weights), (weights, means, variances)
    x, plan = planned(x, components)
    found = _empty(x, components * (1 + 2 * plan.features))
    _train(x, plan, mixture, None, eps, min_weight, (_empty(x, components, plan.rows), found, None, None))
    return found


def unpacked(found: Tensor, components: int) -> Moments:
    """Weights, means and variances of what :func:`moments` and :func:`normalize` find, as views."""
    features = (len(found) // components - 1) // 2
    weights, means, variances = torch.split(found, [components, components * features, components * features])
    return weights, means.view(components, features), variances.view(components, features)


def normalize(
    x: Tensor,
    mixture: Moments | None,
    fit: Fit | None,
    components: int,
    min_weight: float,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    inside: bool,
    sqrt: bool,
    leak: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize with the moments of ``x`` under the posteriors of a mixture, or of one that is fitted to ``x``.

    Args:
        x: ``(N, C, *)``.
        mixture: for the posteriors, if there is one.
        fit: how to fit one, if there is none.
        components: K.
        min_weight: components with a smaller weight are dropped.
        gamma: ``(C,)``.
        beta: ``(C,)``.
        eps: added to the variances.
        inside: whether γ and β belong to the components (Eq. 37).
        sqrt: whether to divide by √λ_k.
        leak: slope below 0 of the activation inside the sum over k (Eq. 38); None for no activation.

    Returns:
        y; posteriors ``(K, M)`` after pruning; the moments under them (Eqs. 31, 35, 36), ``(K (1 + 2 C),)``: weights,
        where a dropped component has 0, means and variances; and whether these are finite, 0-d bool.
    """
    x, plan = planned(x, components)
    nu, found = _empty(x, components, plan.rows), _empty(x, components * (1 + 2 * plan.features))
    y, finite = torch.empty_like(x), x.new_empty((), dtype=torch.bool)
    _train(x, plan, mixture, fit, eps, min_weight, (nu, found, finite, y), _Map(gamma, beta, inside, sqrt, leak))
    return y, nu, found, finite


def evaluate(
    x: Tensor,
    mixture: Moments,
    store: bool,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    inside: bool,
    sqrt: bool,
    leak: float | None,
) -> tuple[Tensor, Tensor]:
    """Normalize with the moments of ``mixture``; arguments are as in :func:`normalize`.

    Returns:
        y, and the posteriors, which are empty without ``store``.
    """
    x, plan = planned(x, len(mixture[0]))
    y, nu = torch.empty_like(x), _empty(x, plan.components if store else 0, plan.rows)
    launch_steps(
        kernels.evaluate,
        1,
        plan.programs,
        (x, *mixture, gamma, beta, nu, y),
        (eps, leak or 0.0),
        (*plan.sizes, *plan.tile, gamma is not None, beta is not None, inside, sqrt, leak is not None, store),
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
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of x, γ and β, in the types of these.

    Arguments are as in :func:`normalize`; ``through_moments`` says whether the mixture's are those of x.
    """
    x, plan = planned(x, len(mixture[0]))
    dy = like(dy, x)
    dx = torch.empty_like(x)
    learned = [None if parameter is None else torch.empty_like(parameter) for parameter in (gamma, beta)]
    scratch = _empty(x, plan.scratch + 2 * plan.components * plan.features)
    launch_steps(
        kernels.backward,
        3,
        plan.programs,
        (x, dy, nu, *mixture, gamma, beta, scratch, dx, *learned),
        (eps, leak or 0.0),
        (
            *(*plan.sizes, plan.few_tiles, plan.parts, *plan.tile, plan.few, *_ADDED_AT_ONCE, plan.at_once),
            *(gamma is not None, beta is not None, inside, sqrt, leak is not None, through_moments),
        ),
    )
    return dx, learned[0], learned[1]


def push(x: Tensor, step: Tensor, finite: Tensor, pushes: Tensor, rows: Tensor, counts: Tensor, totals: Tensor) -> None:
    """Copy rows of ``x`` into the next slot of a queue ``rows (size, capacity, C)``, if ``finite``."""
    x, plan = planned(x, 1)
    size, capacity, features = rows.shape
    count = min(plan.rows, capacity)
    how = _STRATIFIED if plan.rows > capacity else _ALL
    tile = min(plan.tile[2], 128)
    launch_steps(
        seeding.push,
        2,
        min(-(-count // 32) * -(-features // tile), most_programs(x.device)),
        (x, step, finite, pushes, rows, counts, totals),
        (),
        (
            *(count, capacity, size, plan.rows, plan.length, features, *plan.strides),
            *(32, tile, how, Stream.QUEUE_ROWS.value),
        ),
    )
