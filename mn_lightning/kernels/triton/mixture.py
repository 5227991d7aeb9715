"""MixtureNorm on a GPU: one launch for the fit, one for the normalization, one for the gradients.

None of them waits for the device. Everything takes activations ``(N, C, *)`` in float32, bfloat16 or float16 as they
are, and computes in float32.
"""

from __future__ import annotations

import math

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


def _moments(like: Tensor, components: int, features: int) -> Moments:
    return _empty(like, components), _empty(like, components, features), _empty(like, components, features)


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


def _fit(
    x: Tensor,
    plan: RowsPlan,
    mixture: Moments,
    lloyd: int,
    em: int,
    eps: float = 0.0,
    step: Tensor | None = None,
    draws: Tensor | None = None,
) -> None:
    """Fit in place; from centres that k-means++ chooses as a function of ``step``, if it is given."""
    components, features = plan.components, plan.features
    count = 0 if step is None else min(plan.rows, SEED_ROWS)
    candidates = 2 + int(math.log(components))
    columns = power_of_2(candidates)
    how = _ALL if count == plan.rows else _DRAWN
    centres = 0 if step is None else components
    scratch = _empty(x, plan.scratch + count * features + 2 * (count + 1) * columns + plan.posteriors)
    launch_steps(
        kernels.fit,
        (centres + 2 if centres else 0) + (2 + plan.split) * (lloyd + em),
        plan.programs,
        (x, step, draws, *mixture, scratch),
        (eps,),
        (
            *(*plan.sizes, plan.few_tiles, plan.parts, centres, lloyd, em, count, candidates),
            *(*plan.tile, plan.few, power_of_2(count), columns, *_ADDED_AT_ONCE, how, Stream.SEED_ROWS.value),
            *(draws is not None, plan.at_once, plan.split),
        ),
    )


def fit(
    x: Tensor, step: Tensor, components: int, lloyd: int, em: int, eps: float, fit_rows: int | None = None
) -> Moments:
    """Fit by greedy k-means++, ``lloyd`` >= 1 Lloyd and ``em`` EM iterations, to all rows or ``fit_rows`` of them."""
    x, plan = planned(x, components)
    if fit_rows is not None and fit_rows < plan.rows:
        x, plan = planned(gather(x, plan, step, fit_rows, _STRATIFIED, Stream.FIT_ROWS.value), components)
    mixture = _moments(x, components, plan.features)
    _fit(x, plan, mixture, lloyd, em, eps, step)
    return mixture


def lloyd(x: Tensor, centers: Tensor, n_iter: int) -> Moments:
    """Lloyd's algorithm for rows ``(B, M, D)`` from ``centers (K, D)``."""
    plan = plan_for_rows(x.shape, x.stride(), len(centers), x.device)
    mixture = _empty(x, len(centers)), centers.clone(), torch.empty_like(centers)
    _fit(x, plan, mixture, n_iter, 0)
    return mixture


def em(x: Tensor, mixture: Moments, n_iter: int, eps: float) -> Moments:
    """EM for rows ``(B, M, D)``."""
    weights, means, variances = mixture
    mixture = weights.clone(), means.clone(), variances.clone()
    plan = plan_for_rows(x.shape, x.stride(), len(weights), x.device)
    if n_iter:
        _fit(x, plan, mixture, 0, n_iter, eps)
    return mixture


def normalize(
    x: Tensor,
    mixture: Moments,
    eps: float,
    min_weight: float,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    inside: bool = False,
    sqrt: bool = True,
    leak: float | None = None,
    moments_only: bool = False,
) -> tuple[Tensor, Tensor, Moments]:
    """Normalize with the moments of ``x`` under the posteriors of a mixture.

    Args:
        x: ``(N, C, *)``.
        mixture: for the posteriors.
        eps: added to the variances.
        min_weight: components with a smaller weight are dropped.
        gamma: ``(C,)``.
        beta: ``(C,)``.
        inside: whether γ and β belong to the components (Eq. 37).
        sqrt: whether to divide by √λ_k.
        leak: slope below 0 of the activation inside the sum over k (Eq. 38); None for no activation.
        moments_only: leave ``y`` empty.

    Returns:
        y; posteriors ``(K, M)`` after pruning; and the moments under them (Eqs. 31, 35, 36), where a dropped component
        has the weight 0.
    """
    components = len(mixture[0])
    x, plan = planned(x, components)
    nu, moments = _empty(x, components, plan.rows), _moments(x, components, plan.features)
    y = torch.empty_like(x)
    launch_steps(
        kernels.moments,
        4 + 2 * plan.split + (not moments_only),
        plan.programs,
        (x, *mixture, gamma, beta, nu, *moments, _empty(x, plan.scratch + components + 1), y),
        (eps, leak or 0.0, min_weight),
        (
            *(*plan.sizes, plan.few_tiles, plan.parts, *plan.tile, plan.few, *_ADDED_AT_ONCE, plan.at_once, plan.split),
            *(gamma is not None, beta is not None, inside, sqrt, leak is not None, not moments_only),
        ),
    )
    return y, nu, moments


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


def all_finite(means: Tensor, variances: Tensor) -> Tensor:
    """Whether all numbers of a mixture are finite: 0-d bool."""
    finite = torch.empty((), dtype=torch.bool, device=means.device)
    launch(seeding.all_finite, 1, (means, variances, finite), (means.numel(), 1024))
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
        -(-count // 32) * -(-features // tile),
        (x, step, finite, pushes, rows, counts),
        (
            *(count, capacity, size, plan.rows, plan.length, features, *plan.strides),
            *(32, tile, how, Stream.QUEUE_ROWS.value),
        ),
    )
