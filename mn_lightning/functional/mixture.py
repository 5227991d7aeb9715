"""Mixture normalization: fit a mixture to an activation, and normalize the activation under it."""

from types import ModuleType

import torch
from torch import Tensor

from mn_lightning.functional.rows import (
    GRANULARITIES,
    Granularity,
    check_input,
    check_rows,
    from_rows,
    pack,
    per_group,
    to_rows,
    unpack,
    upcast,
)
from mn_lightning.gmm.fitting import fit
from mn_lightning.gmm.seeding import subsample
from mn_lightning.kernels import cpu
from mn_lightning.kernels.density import log_joint, prune
from mn_lightning.kernels.reference import batch_moments
from mn_lightning.kernels.select import backend_for_mixture, gpu_kernels
from mn_lightning.kernels.types import (
    AFFINES,
    SCALES,
    Activation,
    Affine,
    FitOptions,
    Mixture,
    NormOptions,
    Scale,
    mean_of,
    weights_of,
)
from mn_lightning.utils.checks import check_choice
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.precision import full_precision


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
    gpu = gpu_kernels(input, n_components, processes) if granularity == "layer" else None
    if gpu is not None:
        return Mixture(*gpu.fit_mixture(input, n_components, em_iters, step, eps, fit_rows))
    how = FitOptions(n_components, em_iters, step, fit_rows)
    return unpack(_fit(to_rows(upcast(input.detach()), granularity), how, eps, processes), granularity)


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
        min_weight: components with a smaller weight λ, a share of the rows, are dropped.
        processes: those that hold the rows between them.

    Returns:
        Mixture in which a dropped component has weight 0.

    Examples:
        >>> x = torch.randn(32, 4, 8, 8)
        >>> stored = mixture_moments(x, fit_mixture(x, 3, 2, torch.tensor(0)))
        >>> torch.allclose(stored.weights @ stored.means, x.mean((0, 2, 3)), atol=1e-5)
        True
    """
    gpu = gpu_kernels(input, len(mixture.weights), processes) if granularity == "layer" else None
    if gpu is not None:
        return Mixture(*gpu.mixture_moments(input, mixture, eps, min_weight))
    packed = pack(mixture, granularity)
    origin = mean_of(packed)
    x = to_rows(upcast(input), granularity) - origin.unsqueeze(1)
    nu, counts = prune(log_joint(x, packed._replace(means=packed.means - origin), eps), min_weight, processes)
    mean, var = batch_moments(x, nu, counts, processes)
    return unpack(Mixture(weights_of(counts), mean + origin, var), granularity)


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
        min_weight: in training, components with a smaller weight λ, a share of the rows, are dropped.
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
    options = NormOptions(training, eps, affine, scale, activation, min_weight)
    return normalize(input, mixture, weight, bias, options, granularity, processes)[0]


def normalize(
    input: Tensor,
    mixture: Mixture | FitOptions,
    weight: Tensor | None,
    bias: Tensor | None,
    options: NormOptions,
    granularity: Granularity,
    processes: Processes,
) -> tuple[Tensor, Tensor | bool]:
    """Normalize a checked input under a mixture, or under one that is fitted to it.

    Returns:
        The normalized input; and where a mixture is fitted to it, whether all of it is finite, 0-d bool.
    """
    components = mixture.n_components if isinstance(mixture, FitOptions) else len(mixture.weights)
    gpu = gpu_kernels(input, components, processes) if granularity == "layer" else None
    found: tuple[Tensor, Tensor | bool]
    if gpu is None or not gpu.takes_activation(options.activation):
        found = _normalize(input, mixture, weight, bias, options, granularity, processes)
    else:
        found = gpu.mixture_norm(input, mixture, weight, bias, options)
    return found


@full_precision
def _normalize(
    input: Tensor,
    mixture: Mixture | FitOptions,
    weight: Tensor | None,
    bias: Tensor | None,
    options: NormOptions,
    granularity: Granularity,
    processes: Processes,
) -> tuple[Tensor, Tensor | bool]:
    """:func:`normalize` without the kernels for GPUs."""
    wide = upcast(input)  # of a slice, the copy has other strides
    backend = backend_for_mixture(wide, granularity == "layer", options.activation, processes)
    if backend is cpu:
        y, fitted = backend.fit_and_normalize(wide, mixture, weight, bias, options)
        return y.to(input.dtype), _is_finite(input, mixture, fitted, backend)
    x = to_rows(wide, granularity)
    if isinstance(mixture, FitOptions):
        packed = _fit(x.detach(), mixture, options.eps, processes)
    else:
        packed = pack(mixture, granularity)
    gamma = None if weight is None else per_group(weight, granularity)
    beta = None if bias is None else per_group(bias, granularity)
    y = from_rows(backend.mixture_norm(x, packed, gamma, beta, options, processes), wide, granularity)
    return y.to(input.dtype), _is_finite(input, mixture, packed, backend)


def _is_finite(input: Tensor, mixture: Mixture | FitOptions, fitted: Mixture, backend: ModuleType) -> Tensor | bool:
    if not isinstance(mixture, FitOptions):
        return True
    # A value that is not finite anywhere in the batch has reached the means, if all of it is fitted to.
    finite: Tensor | bool = backend.all_finite(fitted)
    return finite if mixture.fit_rows is None else input.detach().sum().isfinite() & finite


@torch.no_grad()
def _fit(x: Tensor, how: FitOptions, eps: float, processes: Processes) -> Mixture:
    """Fit a mixture to rows ``(G, B, M, D)``."""
    if how.fit_rows is not None:
        x = subsample(x, -(-how.fit_rows // processes.size), how.step)
    return fit(x, how.n_components, how.em_iters, how.step, eps, processes)
