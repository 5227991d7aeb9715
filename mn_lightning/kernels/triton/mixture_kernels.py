"""MixtureNorm as Triton kernels: the fit, the normalization in training and in evaluation, and the gradients."""

import triton
import triton.language as tl

from mn_lightning.kernels.triton.map_passes import (
    apply,
    apply_share,
    gradient_maps,
    gradient_rows,
    gradient_sums,
    gradient_sums_at_once,
)
from mn_lightning.kernels.triton.mixture_passes import (
    affinity,
    maximize,
    place,
    posteriors,
    posteriors_at,
    sums,
)
from mn_lightning.kernels.triton.seeding_kernels import candidates, chosen_centre, gather_rows
from mn_lightning.kernels.triton.steps import begins, ends


@triton.jit
def _is_needed(attempt, again):
    """Whether something is done: always, but for a second attempt at the moments, unless the first one asked for it."""
    return (attempt <= 0) | (tl.load(again) > 0)


@triton.jit
def _write_finite(found, finite, size, B: tl.constexpr):
    """Whether all numbers of a mixture are finite."""
    wrong = tl.zeros((B,), tl.int32)
    for start in range(0, size, B):
        i = start + tl.arange(0, B)
        number = tl.load(found + i, mask=i < size, other=0.0)
        wrong += (number - number != 0.0).to(tl.int32)  # the difference from itself is 0 for finite numbers alone
    tl.store(finite, tl.sum(wrong) == 0)


@triton.jit
def train(
    x, step, mix_weights, mix_means, mix_variances, gamma, beta, nu, found, finite, scratch, y, arrived,
    eps, leak, min_weight, first, last,
    B, L, C, K, sb, sl, sc, tiles, R, lloyd, em, count, T,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, RP: tl.constexpr, TP: tl.constexpr,
    BP: tl.constexpr, BA: tl.constexpr, HOW: tl.constexpr, STREAM: tl.constexpr,
    SPLIT: tl.constexpr, SEED: tl.constexpr, FIT: tl.constexpr, MOMENTS: tl.constexpr,
    APPLY: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr, INSIDE: tl.constexpr, SQRT: tl.constexpr,
    ACT: tl.constexpr,
):  # fmt: skip
    """Fit a mixture to the rows, take the moments of the rows under it, and normalize with these: each if asked for.

    SEED: greedy k-means++ among ``count`` of the rows. Each centre after the first is the best, by the sum of squared
    distances that it leaves, of T candidates drawn with probability proportional to the squared distance to the nearest
    centre so far. Random numbers are a function of ``step``.

    FIT: Lloyd's algorithm and EM, some iterations of each. The mixture is written, to a place of our own if there is no
    other.

    MOMENTS: posteriors ``nu (K, B L)`` after pruning, and the moments under them (Eqs. 31, 35, 36), ``found``: weights,
    means and variances one after the other. They are taken twice if a component has to be dropped, or if the first
    attempt lost digits. APPLY: y, and whether all moments are ``finite``.

    SPLIT: features are shared out, so that posteriors are found, and written, a step before the sums.

    Steps: SEED: rows, each centre, the last one's mean; FIT, for each iteration: posteriors (SPLIT), sums, means;
    MOMENTS, twice: posteriors (SPLIT), sums, moments; APPLY: y.
    """
    kept = scratch + R * (2 * K * C + KP)
    again = kept + K
    own = again + 1
    if FIT and MOMENTS:
        mix_weights = own
        mix_means = mix_weights + K
        mix_variances = mix_means + K * C
    seeds = own + K * (1 + 2 * C)
    distances = seeds + count * C  # twice (count, TP)
    picks = distances + 2 * count * TP  # twice (TP,)
    if not MOMENTS:
        nu = picks + 2 * TP
    now = first * 0
    if SEED:
        if begins(0, first, last, arrived):
            gather_rows(x, step, seeds, count, B * L, L, C, sb, sl, sc, 16, BC, HOW, STREAM)
        for k in range(0, K):
            if begins(1 + k, first, last, arrived):
                candidates(seeds, step, mix_means, distances, picks, k, count, C, T, 16, BC, RP, TP)
        if begins(1 + K, first, last, arrived):
            chosen_centre(seeds, mix_means, distances, picks, K, count, C, T, BC, RP, TP)
        now += 2 + K
    for i in range(0, lloyd + em + 2 * MOMENTS):
        attempt = i - (lloyd + em)  # at the moments: 0 and 1
        used, shift = mix_weights, mix_means
        weights, means, variances = mix_weights, mix_means, mix_variances
        if MOMENTS:
            if attempt >= 0:
                weights, means, variances = found, found + K, found + K * (1 + C)
            if attempt > 0:
                used, shift = kept, means
        if SPLIT:
            if begins(now, first, last, arrived):
                if _is_needed(attempt, again):
                    posteriors(
                        x, mix_weights, mix_means, mix_variances, used, nu,
                        B, L, C, K, sb, sl, sc, tiles, eps, i < lloyd, KP, BM, BC,
                    )  # fmt: skip
            now += 1
        if begins(now, first, last, arrived):
            if _is_needed(attempt, again):
                sums(
                    x, mix_weights, mix_means, mix_variances, shift, used, nu, scratch,
                    B, L, C, K, sb, sl, sc, tiles, R, eps, i < lloyd, attempt >= 0, KP, BM, BC, SPLIT,
                )  # fmt: skip
            if (attempt == 0) & (tl.program_id(0) == 0):
                tl.store(again, 0.0)
        if begins(now + 1, first, last, arrived):
            if _is_needed(attempt, again):
                maximize(scratch, shift, weights, means, variances, kept, again, R, C, K, min_weight, eps, KP, BP, BA)
        now += 2
    if MOMENTS:
        if APPLY:
            if begins(now, first, last, arrived):
                apply(
                    x, nu, found, found + K, found + K * (1 + C), gamma, beta, y,
                    B, L, C, K, sb, sl, sc, tiles, eps, leak, BM, BC, HAS_GAMMA, HAS_BETA, INSIDE, SQRT, ACT,
                )  # fmt: skip
                if tl.program_id(0) == 0:
                    _write_finite(found, finite, K * (1 + 2 * C), 1024)
    ends(first, last, arrived)


@triton.jit
def evaluate(
    x, weights, means, variances, gamma, beta, nu, y, arrived,
    eps, leak, first, last, B, L, C, K, sb, sl, sc, tiles,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Y under the posteriors of a mixture, which are kept with STORE, ``nu (K, B L)``."""
    kidx = tl.arange(0, KP)
    if begins(0, first, last, arrived):
        for t in range(tl.program_id(0), B * tiles, tl.num_programs(0)):
            block, row, there = place(t, tiles, L, BM)
            share = affinity(
                x, weights, means, variances, weights, block, row, there, C, K, sb, sl, sc, eps, 0, KP, BM, BC
            )  # fmt: skip
            if STORE:
                at, apart = posteriors_at(nu, block, row, B, L)
                tl.store(at[:, None] + kidx[None, :] * apart, share, mask=there[:, None] & (kidx < K)[None, :])
            apply_share(
                x, share, block, row, there, weights, means, variances, gamma, beta, y,
                C, K, sb, sl, sc, eps, leak, KP, BM, BC, HAS_GAMMA, HAS_BETA, INSIDE, SQRT, ACT,
            )  # fmt: skip
    ends(first, last, arrived)


@triton.jit
def backward(
    x, dy, nu, weights, means, variances, gamma, beta, scratch, dx, dgamma, dbeta, arrived,
    eps, leak, first, last, B, L, C, K, sb, sl, sc, tiles, few_tiles, R,
    KP: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BF: tl.constexpr, BP: tl.constexpr, BA: tl.constexpr,
    AT_ONCE: tl.constexpr, HAS_GAMMA: tl.constexpr, HAS_BETA: tl.constexpr,
    INSIDE: tl.constexpr, SQRT: tl.constexpr, ACT: tl.constexpr, MOMENTS: tl.constexpr,
):  # fmt: skip
    """Gradients of x, γ and β; MOMENTS says whether the mixture's moments are those of x.

    Steps: sums over each component's rows; gradients of its moments; dx.
    """
    dmoments = scratch + R * (2 * K * C + KP)
    if begins(0, first, last, arrived):
        if AT_ONCE and not ACT:
            gradient_sums_at_once(
                x, dy, nu, means, scratch, B, L, C, K, sb, sl, sc, few_tiles, R, KP, BF, BC
            )  # fmt: skip
        else:
            gradient_sums(
                x, dy, nu, weights, means, variances, gamma, beta, scratch,
                B, L, C, K, sb, sl, sc, tiles, R, eps, leak, KP, BM, BC, HAS_GAMMA, HAS_BETA, INSIDE, SQRT, ACT,
            )  # fmt: skip
    if begins(1, first, last, arrived):
        gradient_maps(
            scratch, weights, means, variances, gamma, beta, dgamma, dbeta, dmoments,
            R, C, K, B * L, eps, BP, BA, HAS_GAMMA, HAS_BETA, INSIDE, SQRT, ACT,
        )  # fmt: skip
    if begins(2, first, last, arrived):
        gradient_rows(
            x, dy, nu, weights, means, variances, gamma, beta, dmoments, dx,
            B, L, C, K, sb, sl, sc, tiles, eps, leak, BM, BC, HAS_GAMMA, HAS_BETA, INSIDE, SQRT, ACT, MOMENTS,
        )  # fmt: skip
    ends(first, last, arrived)
