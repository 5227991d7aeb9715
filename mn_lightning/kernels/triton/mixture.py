"""MixtureNorm on a GPU: the fit and the normalization, each a fixed sequence of launches that never waits for the device.

Everything takes activations ``(N, C, *)`` in float32, bfloat16 or float16 as they are, and computes in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mn_lightning.kernels.triton import mixture_kernels as kernels
from mn_lightning.kernels.triton import seeding_kernels as seeding
from mn_lightning.kernels.triton.launch import launch, power_of_2, programs
from mn_lightning.kernels.triton.rows import Rows, dense, like
from mn_lightning.utils.random import Stream

SEED_ROWS = 1024
MOST_FLAGS = 512
_ADD_PROGRAMS = 128

Moments = tuple[Tensor, Tensor, Tensor]
"""Weights ``(K,)``, means and variances ``(K, C)``, float32 and contiguous."""


class _Pass:
    """Memory and sizes of the passes over one activation that sum up for each of K components."""

    def __init__(self, x: Tensor, rows: Rows, components: int) -> None:
        self.x, self.rows, self.components = x, rows, components
        self.tile_rows, self.tile_features = rows.tile
        self.tiles = -(-rows.length // self.tile_rows)
        self.padded = max(2, power_of_2(components))
        self.programs = programs(x.device, rows.blocks * self.tiles)
        self.slices = -(-rows.features // self.tile_features)
        size = self.programs * components * rows.features
        memory = torch.empty(2 * size + self.programs * self.padded, device=x.device)
        self.first, self.second, self.counts = memory.split((size, size, self.programs * self.padded))
        self.add_features = max(32, power_of_2(rows.features) * components // MOST_FLAGS)
        self.adders = (-(-rows.features // self.add_features), components)

    @property
    def sizes(self) -> tuple[int, ...]:
        rows = self.rows
        return rows.blocks, rows.length, rows.features, self.components, *rows.strides

    @property
    def tile(self) -> tuple[int, int, int]:
        return self.padded, self.tile_rows, self.tile_features

    def sums(self, mixture: Moments, shift: Tensor, eps: float, nearest: bool = False,
             nu: Tensor | None = None, kept: Tensor | None = None, again: Tensor | None = None) -> None:  # fmt: skip
        launch(
            kernels.sums,
            (self.programs, self.slices),
            (self.x, *mixture, shift, kept, again, self.counts, self.first, self.second, nu),
            (*self.sizes, eps, self.tiles, self.adders[0] * self.adders[1])
            + (*self.tile, MOST_FLAGS, nearest, nu is not None, again is not None),
        )

    def maximize(self, shift: Tensor, into: Moments, kept: Tensor | None = None, flags: Tensor | None = None,
                 again: Tensor | None = None, min_weight: float = 0.0, eps: float = 0.0) -> None:  # fmt: skip
        launch(
            kernels.maximize,
            self.adders,
            (self.counts, self.first, self.second, shift, *into, kept, again, flags),
            (self.programs, self.rows.features, self.components, min_weight, eps, self.adders[0] * self.adders[1])
            + (self.padded, _ADD_PROGRAMS, self.add_features, MOST_FLAGS, flags is not None, again is not None),
        )

    def lloyd(self, centers: Tensor, mixture: Moments, n_iter: int, eps: float) -> None:
        """Fill ``mixture``."""
        for _ in range(n_iter):
            self.sums((mixture[0], centers, mixture[2]), centers, eps, nearest=True)
            self.maximize(centers, mixture)
            centers = mixture[1]

    def em(self, mixture: Moments, n_iter: int, eps: float) -> None:
        """Improve ``mixture`` in place."""
        for _ in range(n_iter):
            self.sums(mixture, mixture[1], eps)
            self.maximize(mixture[1], mixture)


def new_moments(components: int, features: int, device: torch.device) -> Moments:
    """Memory for a mixture."""
    means, variances = (torch.empty(components, features, device=device) for _ in range(2))
    return torch.empty(components, device=device), means, variances


def gather(x: Tensor, rows: Rows, step: Tensor, count: int, how: int, stream: int) -> Tensor:
    """Copy ``count`` rows, chosen as a function of ``step``: float32 ``(count, C)``."""
    out = torch.empty(count, rows.features, device=x.device)
    tile = min(power_of_2(rows.features), 128)
    launch(
        seeding.gather,
        (-(-count // 32), -(-rows.features // tile)),
        (x, step, out),
        (count, rows.blocks * rows.length, rows.length, rows.features, *rows.strides, 32, tile, how, int(stream)),
        warps=4,
    )
    return out


def kmeans_plus_plus(seeds: Tensor, components: int, step: Tensor, draws: Tensor | None = None) -> Tensor:
    """Choose ``components`` of ``seeds (R, C)``, R at most SEED_ROWS, as centres ``(K, C)``."""
    count, features = seeds.shape
    means = torch.empty(components, features, device=seeds.device)
    candidates = 2 + int(math.log(components))
    launch(
        seeding.seed,
        (1, 1),
        (seeds, step, draws, means),
        (count, features, components, candidates, power_of_2(count), power_of_2(candidates), 16, draws is not None),
        warps=16,
    )
    return means


def fit(
    x: Tensor, step: Tensor, components: int, lloyd: int, em: int, eps: float, fit_rows: int | None = None
) -> Moments:
    """Fit by greedy k-means++, ``lloyd`` >= 1 Lloyd and ``em`` EM iterations, to all rows or to ``fit_rows`` of them."""
    x, rows = dense(x)
    total = rows.blocks * rows.length
    if fit_rows is not None and fit_rows < total:
        x, rows = dense(gather(x, rows, step, fit_rows, seeding.STRATIFIED.value, Stream.FIT_ROWS))
        total = fit_rows
    if total <= SEED_ROWS:
        seeds = gather(x, rows, step, total, seeding.ALL.value, 0)
    else:
        seeds = gather(x, rows, step, SEED_ROWS, seeding.DRAWN.value, Stream.SEED_ROWS)
    centers = kmeans_plus_plus(seeds, components, step)
    mixture = new_moments(components, rows.features, x.device)
    a_pass = _Pass(x, rows, components)
    a_pass.lloyd(centers, mixture, lloyd, eps)
    a_pass.em(mixture, em, eps)
    return mixture


def lloyd(x: Tensor, centers: Tensor, n_iter: int) -> Moments:
    """Lloyd's algorithm for rows ``(B, M, D)`` from ``centers (K, D)``."""
    mixture = new_moments(*centers.shape, x.device)
    _Pass(x, Rows(*x.shape, *x.stride()), len(centers)).lloyd(centers, mixture, n_iter, 0.0)
    return mixture


def em(x: Tensor, mixture: Moments, n_iter: int, eps: float) -> Moments:
    """EM for rows ``(B, M, D)``."""
    weights, means, variances = mixture
    mixture = weights.clone(), means.clone(), variances.clone()
    _Pass(x, Rows(*x.shape, *x.stride()), len(weights)).em(mixture, n_iter, eps)
    return mixture


def _options(
    gamma: Tensor | None, beta: Tensor | None, inside: bool, sqrt: bool, leak: float | None
) -> tuple[bool, ...]:
    return gamma is not None, beta is not None, inside, sqrt, leak is not None


def posteriors_and_moments(x: Tensor, mixture: Moments, eps: float, min_weight: float) -> tuple[Tensor, Moments]:
    """Posteriors ``(K, M)`` after pruning, and the moments under them (Eqs. 31, 35, 36); a dropped weight is 0."""
    x, rows = dense(x)
    components = len(mixture[0])
    a_pass = _Pass(x, rows, components)
    nu = torch.empty(components, rows.blocks * rows.length, device=x.device)
    moments = new_moments(components, rows.features, x.device)
    signals = torch.empty(components + MOST_FLAGS, device=x.device)
    kept, flags = signals.split((components, MOST_FLAGS))
    a_pass.sums(mixture, mixture[1], eps, nu=nu)
    a_pass.maximize(mixture[1], moments, kept, flags, None, min_weight, eps)
    a_pass.sums(mixture, moments[1], eps, nu=nu, kept=kept, again=flags)
    a_pass.maximize(moments[1], moments, again=flags)
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
    """Normalize; with ``nu`` None under the posteriors of ``mixture``, which are returned with ``store``."""
    x, rows = dense(x)
    components = len(mixture[0])
    tile_rows, tile_features = rows.tile
    tiles = -(-rows.length // tile_rows)
    y = torch.empty_like(x)
    given = nu is not None
    if nu is None:
        nu = torch.empty(components if store else 0, rows.blocks * rows.length, device=x.device)
    launch(
        kernels.apply,
        (rows.blocks * tiles, -(-rows.features // tile_features) if given else 1),
        (x, nu, *mixture, gamma, beta, y),
        (rows.blocks, rows.length, rows.features, components, *rows.strides, eps, tiles, leak or 0.0)
        + (max(2, power_of_2(components)), tile_rows, tile_features)
        + (*_options(gamma, beta, inside, sqrt, leak), given, store),
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
    """Gradients of x, γ and β; the last two float32 ``(C,)``, also where there are none."""
    x, rows = dense(x)
    dy, _ = like(dy, x)
    a_pass = _Pass(x, rows, len(mixture[0]))
    options = _options(gamma, beta, inside, sqrt, leak)
    numbers = (*a_pass.sizes, eps, a_pass.tiles, leak or 0.0, *a_pass.tile, *options)
    launch(
        kernels.gradient_sums,
        (a_pass.programs, a_pass.slices),
        (x, dy, nu, *mixture, gamma, beta, a_pass.first, a_pass.second),
        numbers,
    )
    features, components = rows.features, a_pass.components
    of_mean, of_var = torch.empty(2, components, features, device=x.device).unbind()
    dgamma, dbeta = torch.empty(features, device=x.device), torch.empty(features, device=x.device)
    launch(
        kernels.gradient_maps,
        (-(-features // 32), 1),
        (a_pass.first, a_pass.second, *mixture, gamma, beta, dgamma, dbeta, of_mean, of_var),
        (a_pass.programs, features, components, rows.blocks * rows.length, eps, _ADD_PROGRAMS, 32, *options),
    )
    dx = torch.empty_like(x)
    launch(
        kernels.gradient_rows,
        (rows.blocks * a_pass.tiles, a_pass.slices),
        (x, dy, nu, *mixture, gamma, beta, of_mean, of_var, dx),
        (*numbers, through_moments),
    )
    return dx, dgamma, dbeta


def all_finite(means: Tensor, variances: Tensor) -> Tensor:
    """Whether all numbers of a mixture are finite: 0-d bool."""
    finite = torch.empty((), dtype=torch.bool, device=means.device)
    launch(seeding.all_finite, (1, 1), (means, variances, finite), (means.numel(), 1024), warps=4)
    return finite


def push(x: Tensor, step: Tensor, finite: Tensor, pushes: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Copy rows of ``x`` into the next slot of a queue ``rows (size, capacity, C)``, if ``finite``."""
    x, of_x = dense(x)
    size, capacity, features = rows.shape
    total = of_x.blocks * of_x.length
    count = min(total, capacity)
    how = seeding.STRATIFIED if total > capacity else seeding.ALL
    tile = min(power_of_2(features), 128)
    launch(
        seeding.push,
        (-(-count // 32), -(-features // tile)),
        (x, step, finite, pushes, rows, counts),
        (count, capacity, size, total, of_x.length, features, *of_x.strides, 32, tile)
        + (how.value, int(Stream.QUEUE_ROWS)),
        warps=4,
    )
