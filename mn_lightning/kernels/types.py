"""What goes into the passes over an activation and what comes out of them."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Affine = Literal["output", "component"]
Scale = Literal["sqrt", "unit"]
# Taken out of the types here because torch.compile cannot look into them.
AFFINES, SCALES = get_args(Affine), get_args(Scale)
Activation = Callable[[Tensor], Tensor]
Head = Callable[..., tuple[Tensor, ...]]
"""From moments and parameters to slope, offset and what else the caller wants; see ``sample_affine``."""


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
    """Sums over rows under posteriors: all that an M step, or the moments of Eqs. 35-36, need of the data.

    Attributes:
        counts: Σ_i ν_ik, ``(G, K)``.
        first: Σ_i ν_ik x_i, ``(G, K, D)``.
        second: Σ_i ν_ik x_i², ``(G, K, D)``.

    Examples:
        >>> x, nu = torch.randn(100, 3), torch.rand(100, 2).softmax(-1)
        >>> sums = Sums(nu.sum(0)[None], (nu.mT @ x)[None], (nu.mT @ x.square())[None])
    """

    counts: Tensor
    first: Tensor
    second: Tensor


class NormOptions(NamedTuple):
    """Which of the papers' formulas to compute: the arguments of ``functional.mixture_norm`` of these names."""

    training: bool
    eps: float
    affine: Affine
    scale: Scale
    activation: Activation | None
    min_weight: float

    def maps(
        self, mean: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Slope and intercept of each component's map of a row, ``(G, K, D)``, and what is added to their sum."""
        if self.affine == "component":
            mean = mean if beta is None else mean + beta
            var = var if gamma is None else var * gamma
            gamma = beta = None
        slope = (var + self.eps).rsqrt()
        if gamma is not None:
            slope = slope * gamma
        return slope, -mean * slope, beta

    def factor(self, weights: Tensor) -> Tensor:
        """1/√λ_k, ``(G, K)``; 1 for a component that is not in use."""
        return torch.where(weights > 0, weights, 1).rsqrt() if self.scale == "sqrt" else torch.ones_like(weights)


class Ring(NamedTuple):
    """What is kept of the last batches, a slot for each.

    Attributes:
        pushes: how many batches have come, 0-d int64; the next one goes into slot ``pushes % size``.
        rows: ``(size, capacity, C)``.
        counts: how many rows are in each slot, ``(size,)``.
        totals: how many rows the batch of each slot had, ``(size,)``.
    """

    pushes: Tensor
    rows: Tensor
    counts: Tensor
    totals: Tensor


class FitOptions(NamedTuple):
    """How to fit a mixture: the arguments of ``functional.fit_mixture`` of these names."""

    n_components: int
    em_iters: int
    step: Tensor
    fit_rows: int | None


def mean_of(mixture: Mixture) -> Tensor:
    """Mean of a mixture, ``(G, 1, D)``: relative to it, a large common offset of the rows costs no digits."""
    return (mixture.weights.unsqueeze(-1) * mixture.means).sum(1, keepdim=True)


def weights_of(counts: Tensor) -> Tensor:
    """Weights λ, ``(G, K)``, from the sums of ν over the rows: these add up to the number of rows."""
    return counts / counts.sum(-1, keepdim=True)
