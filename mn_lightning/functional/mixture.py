"""The normalizations as pure functions, in the manner of :mod:`torch.nn.functional`.

Inputs have shape ``(N, C, *)``, L is the product of ``*`` (1 for fully connected layers), and one row is one C-vector:
there are M = N·L rows. Everything is computed in float32 at least, in float64 for float64 input, also under
autocast, and returned in the input's dtype and memory format.

Equations 1-39 are those of Kalayeh & Shah (arXiv:1806.02892), Algorithms 1-3 those of Deecke, Murray & Bilen
(arXiv:1810.05466).
"""

# With torch 2.6, torch.compile cannot evaluate the annotations `Tensor | None` of functions inside functions.
from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from mn_lightning import gmm
from mn_lightning.kernels.autograd import matmul, weighted_moments
from mn_lightning.utils.checks import check_choice, check_input, check_rows
from mn_lightning.kernels.cpu.mixture import has_parameters
from mn_lightning.kernels.reference import (
    Activation,
    Affine,
    Reading,
    Scale,
    at_once,
    batch_moments,
    in_pieces,
    moved,
    origin_of,
    share_of,
)
from mn_lightning.kernels.pieces import pays
from mn_lightning.utils.precision import full_precision
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.functional.rows import Granularity, from_rows, pack, per_group, to_rows, unpack, upcast
from mn_lightning.kernels.cpu.samples import sample_affine
from mn_lightning.kernels.inner_graph import wants_gradients
from mn_lightning.gmm import Mixture

# Taken out of the types here because torch.compile cannot look into them.
AFFINES, GRANULARITIES, SCALES = get_args(Affine), get_args(Granularity), get_args(Scale)


# --- mixture normalization ----------------------------------------------------------------------------------------


@torch.no_grad()
@full_precision
def fit_mixture(
    input: Tensor,
    n_components: int,
    em_iters: int,
    step: Tensor,
    eps: float = 1e-5,
    granularity: Granularity = "layer",
    processes: Processes = ALONE,
    fit_rows: int | None = None,
) -> Mixture:
    """Fit the mixture of Section 3.2 to the rows of an activation, outside the graph.

    Args:
        input: ``(N, C, *)``.
        n_components: number of components K.
        em_iters: Lloyd and EM iterations together; 2 is one of each, an odd count gives the extra one to Lloyd.
        step: int64 tensor with one element that all random choices are a function of.
        eps: added to the variances in densities, as it is in the normalization.
        granularity: ``"layer"`` fits one mixture to C-vectors, ``"channel"`` fits C mixtures to numbers.
        processes: those that hold the batch between them; all get the same mixture.
        fit_rows: fit to this many of the rows, drawn at random, instead of all; of several processes, each gives its
            part of them.

    Returns:
        Mixture with weights ``(K,)`` (``(K, C)`` per channel), means and variances ``(K, C)``.

    Raises:
        ValueError: wrong rank or dtype, fewer than two rows, an unknown granularity.

    Examples:
        >>> x = torch.cat([torch.randn(60, 4) - 5, torch.randn(20, 4) + 5])
        >>> mixture = fit_mixture(x, n_components=2, em_iters=4, step=torch.tensor(0))
        >>> mixture.weights.sort().values
        tensor([0.2500, 0.7500])
        >>> mixture.means.shape, mixture.variances.shape
        (torch.Size([2, 4]), torch.Size([2, 4]))
    """
    check_input("fit_mixture", input)
    if processes.size == 1:
        check_rows("fit_mixture", input)
    check_choice("fit_mixture", "granularity", granularity, GRANULARITIES)
    x = to_rows(upcast(input.detach()), granularity)
    if fit_rows is not None:
        x = gmm.subsample(x, -(-fit_rows // processes.size), step)
    origin = gmm.rough_mean(x, processes)
    fitted = gmm.fit(x, n_components, em_iters, step, eps, processes, origin)
    return unpack(moved(fitted, origin), granularity)


@torch.no_grad()
@full_precision
def mixture_moments(
    input: Tensor,
    mixture: Mixture,
    eps: float = 1e-5,
    granularity: Granularity = "layer",
    min_weight: float = 0.01,
    processes: Processes = ALONE,
) -> Mixture:
    """Return what training would normalize these rows with: λ, μ and σ² of Eqs. 35-36 after pruning.

    Shapes are those of :func:`fit_mixture`; this is the mixture that inference stores.

    Args:
        input: ``(N, C, *)``.
        mixture: as :func:`fit_mixture` returns it.
        eps: added to the variances in densities.
        granularity: of the mixture.
        min_weight: components with a smaller share λ of the rows are dropped.
        processes: those that hold the rows between them.

    Returns:
        Mixture in which a dropped component has weight 0.

    Examples:
        >>> x = torch.randn(32, 4, 8, 8)
        >>> stored = mixture_moments(x, fit_mixture(x, 3, 2, torch.tensor(0)))
        >>> torch.allclose(stored.weights @ stored.means, x.mean((0, 2, 3)), atol=1e-5)
        True
    """
    packed = pack(mixture, granularity)
    origin = origin_of(packed)
    x = to_rows(upcast(input), granularity) - origin.unsqueeze(1)
    nu, counts = gmm.prune(gmm.log_joint(x, moved(packed, -origin), eps), min_weight, processes)
    mean, var = batch_moments(x, nu, counts, processes)
    return unpack(moved(Mixture(share_of(counts), mean, var), origin), granularity)


@full_precision
def mixture_norm(
    input: Tensor,
    mixture: Mixture,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    eps: float = 1e-5,
    affine: Affine = "output",
    granularity: Granularity = "layer",
    scale: Scale = "sqrt",
    activation: Activation | None = None,
    min_weight: float = 0.01,
    processes: Processes = ALONE,
) -> Tensor:
    r"""Mixture normalization of Kalayeh & Shah, Eqs. 31-38, under a given mixture.

    .. math:: \hat x_i = \sum_k \frac{\nu_k(x_i)}{\sqrt{\lambda_k}} \frac{x_i - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}}

    In training, λ, μ and σ² are the moments of this batch under the posteriors ν of ``mixture``, with gradients through
    μ and σ² but none through ν; at inference they are the mixture's own.

    Args:
        input: ``(N, C, *)``.
        mixture: as :func:`fit_mixture` returns it.
        weight: γ, ``(C,)``; with ``affine="component"`` it must be positive.
        bias: β, ``(C,)``.
        training: whether to normalize with this batch's moments.
        eps: added to the variances.
        affine: ``"output"`` returns γ x̂ + β; ``"component"`` is Eq. 37, μ_k + β and γ σ²_k in place of μ_k and σ²_k.
        granularity: one mixture per ``"layer"`` or per ``"channel"``.
        scale: ``"sqrt"`` divides by √λ_k as published, ``"unit"`` leaves that out.
        activation: elementwise function applied inside the sum over k (Eq. 38).
        min_weight: in training, components with a smaller share λ of the rows are dropped.
        processes: in training, those that hold the batch between them.

    Returns:
        Tensor of the input's shape, dtype and memory format.

    Raises:
        ValueError: wrong rank or dtype, an unknown option; in training, fewer than two rows.

    Examples:
        >>> x = torch.randn(16, 4, 8, 8)
        >>> mixture = fit_mixture(x, n_components=3, em_iters=2, step=torch.tensor(0))
        >>> mixture_norm(x, mixture, training=True).shape
        torch.Size([16, 4, 8, 8])

        One component is BatchNorm:

        >>> one = fit_mixture(x, n_components=1, em_iters=2, step=torch.tensor(0))
        >>> expected = torch.nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(mixture_norm(x, one, training=True), expected, atol=1e-5)
        True
    """
    check_input("mixture_norm", input)
    check_choice("mixture_norm", "affine", affine, AFFINES)
    check_choice("mixture_norm", "granularity", granularity, GRANULARITIES)
    check_choice("mixture_norm", "scale", scale, SCALES)
    if training and processes.size == 1:
        check_rows("mixture_norm", input)
    wide = upcast(input)  # of a slice, the copy has other strides
    x, packed = to_rows(wide, granularity), pack(mixture, granularity)
    gamma = None if weight is None else per_group(weight, granularity)
    beta = None if bias is None else per_group(bias, granularity)
    reading = Reading(training, eps, affine, scale, activation, min_weight)
    if granularity == "layer" and processes.size == 1 and pays(x) and not has_parameters(activation):
        y = in_pieces(x, packed, gamma, beta, reading)
    else:
        y = at_once(x, packed, gamma, beta, reading, processes)
    return from_rows(y, wide, granularity).to(input.dtype)


# --- mode normalization -------------------------------------------------------------------------------------------


def _sample_affine(
    x: Tensor, centred: bool, head: Callable[..., tuple[Tensor, ...]], *parameters: Tensor | None
) -> tuple[Tensor, ...]:
    """Map each sample and channel of ``(N, C, *)`` by what ``head`` makes of their moments over ``*``.

    Args:
        x: ``(N, C, *)``.
        centred: whether ``head`` takes means and variances, or means alone.
        head: of the moments, ``(N, C)`` each, and ``parameters``; returns slope and offset, ``(N, C)``, and others.
        parameters: what ``head`` takes.

    Returns:
        x · slope + offset, and the others.
    """

    def plain(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        moments: tuple[Tensor, ...]
        if not centred:
            moments = (x if x.dim() == 2 else x.mean(tuple(range(2, x.dim()))),)
        elif x.dim() == 2:
            moments = x, torch.zeros_like(x)
        else:
            moments = torch.var_mean(x, dim=tuple(range(2, x.dim())), correction=0)[::-1]
        slope, offset, *others = head(*moments, *parameters)
        shape = (*x.shape[:2], *(1 for _ in range(x.dim() - 2)))
        return torch.addcmul(offset.reshape(shape), x, slope.reshape(shape)), *others

    if x.dim() == 2 or x.numel() == 0 or not pays(x):
        return plain(x, *parameters)
    if not centred and not wants_gradients(x, *parameters):
        return plain(x, *parameters)  # one mean and one map, which torch has as they are
    rows = x.flatten(2).mT.unsqueeze(0)

    def plain_rows(rows: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        y, *others = plain(rows.squeeze(0).mT, *parameters)
        return y.mT.unsqueeze(0), *others

    y, *others = sample_affine(rows, centred, head, plain_rows, parameters)
    return y.squeeze(0).mT.reshape(x.shape), *others


@full_precision
def mode_norm(
    input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    processes: Processes = ALONE,
) -> Tensor:
    r"""Mode normalization of Deecke et al., Algorithms 1 and 2.

    .. math:: y_n = \gamma \sum_k g_{nk} \frac{x_n - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \quad
       g_n = \mathrm{softmax}(W \operatorname{mean}_*(x_n) + b)

    In training, μ_k and σ²_k are this batch's moments weighted by the gates, with gradients through the gates (the
    text of Section 3.2; the listing of Algorithm 1 prints the running ones). As the gates are constant over ``*``,
    the layer is one affine map per sample and channel. The running variance averages unbiased variances as
    BatchNorm's does, instead of Algorithm 1's second moments, whose difference loses its digits where the mean is
    large; with constant gates the layer then equals BatchNorm in evaluation too.

    Args:
        input: ``(N, C, *)``.
        gate_weight: W, ``(K, C)``.
        gate_bias: b, ``(K,)``.
        running_mean: ``(K, C)``, updated in place in training, used otherwise.
        running_var: ``(K, C)``, likewise.
        weight: γ, ``(C,)``.
        bias: β, ``(C,)``.
        training: whether to normalize with this batch's moments; also done where there are no running ones.
        momentum: weight of the new value in the running moments.
        eps: added to the variances.
        processes: where this batch's moments are used, those that hold it between them.

    Returns:
        Tensor of the input's shape, dtype and memory format.

    Raises:
        ValueError: wrong rank or dtype; in training, fewer than two values per channel.

    Examples:
        >>> x, weight, bias = torch.randn(16, 4, 8, 8), torch.randn(2, 4), torch.zeros(2)
        >>> mean, var = torch.zeros(2, 4), torch.ones(2, 4)
        >>> mode_norm(x, weight, bias, mean, var, training=True).shape
        torch.Size([16, 4, 8, 8])
        >>> bool((mean != 0).all())  # updated in place
        True

        Gates that are the same for all samples make it BatchNorm:

        >>> expected = torch.nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(mode_norm(x, 0 * weight, bias), expected, atol=1e-5)
        True
    """
    check_input("mode_norm", input)
    use_batch = training or running_mean is None or running_var is None
    if use_batch and processes.size == 1:
        check_rows("mode_norm", input)
    x = upcast(input)

    def from_the_batch(
        pooled: Tensor, within: Tensor, w: Tensor, b: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        log_gates = _log_gates(pooled, w, b)
        share = _softmax_over_samples(log_gates, processes)
        total, samples = processes.sum(pooled.detach().sum(0), pooled.new_full((), len(pooled)))
        shift = total / samples
        between_mean, between_var = weighted_moments((pooled - shift)[None, None], share[None, None], processes)
        mean = between_mean[0] + shift
        var = between_var[0] + processes.sum(matmul(share.mT, within))[0]
        rows = samples * input.shape[2:].numel()
        return *_maps_of_gates(log_gates, mean, var, weight, bias, eps), mean, var * (rows / (rows - 1))

    def from_running_moments(
        pooled: Tensor, w: Tensor, b: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        assert running_mean is not None
        assert running_var is not None
        log_gates = _log_gates(pooled, w, b)
        return _maps_of_gates(log_gates, running_mean.to(x.dtype), running_var.to(x.dtype), weight, bias, eps)

    head = from_the_batch if use_batch else from_running_moments
    y, *moments = _sample_affine(x, use_batch, head, gate_weight, gate_bias, weight, bias)
    if training and running_mean is not None and running_var is not None:
        if isinstance(momentum, Tensor):
            momentum = momentum.to(x.dtype)
        with torch.no_grad():
            for running, new in zip((running_mean, running_var), moments, strict=True):
                running.copy_(running.to(x.dtype).lerp(new.detach(), momentum))
    return y.to(input.dtype)


def _log_gates(pooled: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (matmul(pooled, weight.to(pooled.dtype).mT) + bias.to(pooled.dtype)).log_softmax(-1)


def _maps_of_gates(
    log_gates: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Slope and offset, ``(N, C)``, of each sample and channel, from the moments, ``(K, C)``, of each mode."""
    slope = (var + eps).rsqrt()
    if weight is not None:
        slope = slope * weight.to(slope.dtype)
    gates = log_gates.exp()
    offset = matmul(gates, -mean * slope)
    if bias is not None:
        offset = offset + bias.to(slope.dtype)
    return matmul(gates, slope), offset


def _softmax_over_samples(log_gates: Tensor, processes: Processes) -> Tensor:
    """g_nk / Σ_n g_nk: finite also when a mode's gates all underflow to 0, where dividing by N_k makes NaN."""
    if processes.size == 1:
        return log_gates.softmax(0)
    lowest = log_gates.new_full((1, log_gates.shape[1]), torch.finfo(log_gates.dtype).min)
    largest = processes.max(torch.cat([log_gates, lowest]).amax(0))
    scaled = (log_gates - largest).exp()
    (total,) = processes.sum(scaled.sum(0))
    return scaled / total


@full_precision
def mode_group_norm(
    input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Mode group normalization of Deecke et al., Algorithm 3 and Eq. 5.

    .. math:: y = \frac{\gamma}{K} \sum_k \frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \quad
       g_c = \mathrm{softmax}(w \operatorname{mean}_*(x_c) + b)

    where the moments of mode k are taken over one sample's channels and pixels, channel c weighted by g_ck. The layer
    is the same in training and inference; with K = 1 it is ``GroupNorm(1, C)``.

    Args:
        input: ``(N, C, *)``.
        gate_weight: w, ``(K,)``.
        gate_bias: b, ``(K,)``.
        weight: γ, ``(C,)``.
        bias: β, ``(C,)``.
        eps: added to the variances.

    Returns:
        Tensor of the input's shape, dtype and memory format.

    Raises:
        ValueError: wrong rank or dtype; fewer than two values per sample.

    Examples:
        >>> x = torch.randn(2, 6, 8, 8)
        >>> mode_group_norm(x, gate_weight=torch.randn(3), gate_bias=torch.zeros(3)).shape
        torch.Size([2, 6, 8, 8])

        One mode is GroupNorm with one group:

        >>> expected = torch.nn.functional.group_norm(x, num_groups=1)
        >>> torch.allclose(mode_group_norm(x, torch.ones(1), torch.zeros(1)), expected, atol=1e-5)
        True
    """
    check_input("mode_group_norm", input)
    if input.shape[1:].numel() == 1:
        raise ValueError(
            f"mode_group_norm expected more than one value per sample, got input of shape {tuple(input.shape)}"
        )

    def head(
        pooled: Tensor, within: Tensor, w: Tensor, b: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits = pooled.unsqueeze(-1) * w.to(pooled.dtype) + b.to(pooled.dtype)
        share = logits.log_softmax(-1).softmax(1)  # g_ck / Σ_c g_ck, finite for a mode that no channel uses
        mean = (share * pooled.unsqueeze(-1)).sum(1, keepdim=True)
        var = (share * (within.unsqueeze(-1) + (pooled.unsqueeze(-1) - mean).square())).sum(1)
        inverse = (var + eps).rsqrt()
        slope = inverse.mean(-1, keepdim=True)
        offset = -(mean.squeeze(1) * inverse).mean(-1, keepdim=True)
        if weight is not None:
            weight = weight.to(pooled.dtype)  # once: both products' gradients cancel; each may be beyond float16
            slope, offset = slope * weight, offset * weight
        if bias is not None:
            offset = offset + bias.to(pooled.dtype)
        return slope.expand_as(pooled), offset.expand_as(pooled)

    return _sample_affine(upcast(input), True, head, gate_weight, gate_bias, weight, bias)[0].to(input.dtype)


# --- the theory ---------------------------------------------------------------------------------------------------


@full_precision
def fisher_vector(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fisher vector of rows under a diagonal Gaussian mixture, Eq. 33 (Eq. 24 for K = 1).

    .. math:: \frac{\nu_k(x)}{\sqrt{\lambda_k}} \left[ \frac{x - \mu_k}{\sigma_k}, \;
       \frac{1}{\sqrt 2} \left( \frac{(x - \mu_k)^2}{\sigma_k^2} - 1 \right) \right]

    For K = 1 the first part is BatchNorm's output, and its sum over k is MixtureNorm's (Eq. 34).

    Args:
        x: rows, ``(M, D)``.
        weights: λ, ``(K,)``; a component of weight 0 contributes 0.
        means: μ, ``(K, D)``.
        variances: σ², ``(K, D)``, positive.

    Returns:
        The parts with respect to μ and to σ, both ``(M, K, D)``.

    Raises:
        ValueError: ``x`` is no matrix, or the shapes do not agree.

    Examples:
        >>> x = torch.randn(50, 4)
        >>> mixture = fit_mixture(x, n_components=3, em_iters=4, step=torch.tensor(0), eps=0.0)
        >>> mean_part, deviation_part = fisher_vector(x, *mixture)
        >>> mean_part.shape
        torch.Size([50, 3, 4])
        >>> torch.allclose(mean_part.sum(1), mixture_norm(x, mixture, eps=0.0), atol=1e-4)
        True
    """
    if not (x.dim() == 2 and weights.dim() == 1 and means.shape == variances.shape == (*weights.shape, x.shape[1])):
        raise ValueError(
            f"fisher_vector got x {tuple(x.shape)}, weights {tuple(weights.shape)}, means {tuple(means.shape)} and "
            f"variances {tuple(variances.shape)}; it takes (M, D), (K,), (K, D) and (K, D)"
        )
    mixture = pack(Mixture(weights, means, variances), "layer")
    origin = origin_of(mixture)
    mixture, rows = moved(mixture, -origin), upcast(x) - origin[0]
    nu = gmm.posteriors(rows[None, None], mixture, reg_covar=0.0)[0, 0] * torch.where(weights > 0, weights, 1).rsqrt()
    z = (rows.unsqueeze(1) - mixture.means[0]) * mixture.variances[0].rsqrt()
    return nu.unsqueeze(-1) * z, nu.unsqueeze(-1) * (z.square() - 1) / 2**0.5
