"""Numbers about a mixture, and about how well it fits the rows of an activation.

Summing over rows and computing means from the sums are separate functions, because several processes add their sums in
between.
"""

import torch
from torch import Tensor

from mn_lightning import gmm
from mn_lightning.functional.rows import Granularity, pack, to_rows, upcast
from mn_lightning.kernels.types import Mixture
from mn_lightning.utils.precision import full_precision

CONFIDENT = 0.9
"""A row clearly belongs to one component if its largest posterior exceeds this."""


def single_gaussian(mixture: Mixture) -> Mixture:
    """Return the Gaussian with the mean and variance of the whole mixture: BatchNorm's model of the same rows.

    Args:
        mixture: weights ``(K,)`` or ``(K, C)``, means and variances ``(K, C)``.

    Returns:
        A mixture with K = 1.

    Examples:
        >>> mixture = Mixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
        >>> single_gaussian(mixture).variances  # 1 within the components, and 1 between them
        tensor([[2.]])
    """
    weights = mixture.weights if mixture.weights.dim() == 2 else mixture.weights.unsqueeze(-1)
    mean = (weights * mixture.means).sum(0, keepdim=True)
    variance = (weights * (mixture.variances + (mixture.means - mean).square())).sum(0, keepdim=True)
    return Mixture(torch.ones_like(mixture.weights[:1]), mean, variance)


@torch.no_grad()
def mixture_statistics(mixture: Mixture, eps: float = 1e-5, granularity: Granularity = "layer") -> dict[str, Tensor]:
    """Describe the shape of a mixture. If each channel has a mixture, the numbers are means over channels.

    Args:
        mixture: weights ``(K,)`` or ``(K, C)``, means and variances ``(K, C)``.
        eps: added to the variances, as in the densities.
        granularity: of the mixture.

    Returns:
        0-d tensors: ``components``, how many have a weight above 0; ``entropy`` of the weights, in nats, at most ln K;
        ``smallest_weight`` and ``largest_weight`` of those in use; ``separation``, the mean over pairs of components in
        use of the distance between their means in units of their spread: the root mean square over channels of
        |μ_k - μ_l| / sqrt((σ²_k + σ²_l) / 2). It is NaN where only one is in use.

    Examples:
        >>> mixture = Mixture(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([[-3.0], [3.0], [0.0]]), torch.ones(3, 1))
        >>> numbers = mixture_statistics(mixture)
        >>> int(numbers["components"]), round(float(numbers["separation"]), 2)
        (2, 6.0)
    """
    weights, means, variances = pack(mixture, granularity)
    used = weights > 0
    spread = (variances.unsqueeze(2) + variances.unsqueeze(1)) / 2 + eps
    distance = ((means.unsqueeze(2) - means.unsqueeze(1)).square() / spread).mean(-1).sqrt()
    pairs = (used.unsqueeze(2) & used.unsqueeze(1)).triu(1)
    return {
        "components": used.sum(-1).to(weights.dtype).mean(),
        "entropy": torch.special.entr(weights).sum(-1).mean(),
        "smallest_weight": weights.masked_fill(~used, torch.inf).amin(-1).mean(),
        "largest_weight": weights.amax(-1).mean(),
        "separation": torch.where(pairs, distance, 0).sum() / pairs.sum(),
    }


@torch.no_grad()
@full_precision
def row_sums(input: Tensor, mixture: Mixture, eps: float = 1e-5, granularity: Granularity = "layer") -> Tensor:
    """Sum over the rows of an activation the values that :func:`row_statistics` needs.

    Args:
        input: ``(N, C, *)``; it may be empty.
        mixture: weights ``(K,)`` or ``(K, C)``, means and variances ``(K, C)``.
        eps: added to the variances, as in the densities.
        granularity: of the mixture; per channel, each value counts as a row.

    Returns:
        ``(3,)``: the number of rows; the number of those whose largest posterior exceeds 0.9; the log-likelihood of the
        mixture minus that of :func:`single_gaussian`, per dimension, in nats, summed over rows.

    Examples:
        >>> mixture = Mixture(torch.tensor([0.5, 0.5]), torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1))
        >>> rows, confident, gain = row_sums(torch.tensor([[-3.0], [3.0], [0.0]]), mixture)
        >>> int(rows), int(confident)  # the row in the middle belongs to neither
        (3, 2)
    """
    x, packed, gaussian = _centred(input, mixture, single_gaussian(mixture), granularity)
    joint = gmm.log_joint(x, packed, eps)
    confident = gmm.posteriors(x, packed, eps).amax(-1) > CONFIDENT
    gain = joint.logsumexp(-1) - gmm.log_joint(x, gaussian, eps).squeeze(-1)
    return torch.stack([x.new_tensor(float(gain.numel())), confident.sum().to(x.dtype), gain.sum() / x.shape[-1]])


def row_statistics(sums: Tensor) -> dict[str, Tensor]:
    """Compute means from :func:`row_sums`, over all processes whose sums were added.

    Args:
        sums: ``(3,)``.

    Returns:
        0-d tensors: ``confident``, the share of rows whose largest posterior exceeds 0.9; ``log_likelihood_gain``, of
        the mixture over a single Gaussian, in nats per row and dimension. NaN if there was no row.

    Examples:
        >>> row_statistics(torch.tensor([100.0, 90.0, 20.0]))
        {'confident': tensor(0.9000), 'log_likelihood_gain': tensor(0.2000)}
    """
    return {"confident": sums[1] / sums[0], "log_likelihood_gain": sums[2] / sums[0]}


@torch.no_grad()
@full_precision
def posteriors(input: Tensor, mixture: Mixture, eps: float = 1e-5) -> Tensor:
    """Return the posteriors of a layer's components for each row.

    Args:
        input: ``(N, C, *)``.
        mixture: weights ``(K,)``, means and variances ``(K, C)``.
        eps: added to the variances, as in the densities.

    Returns:
        ν (Eq. 31), ``(N, K, *)``.

    Examples:
        >>> mixture = Mixture(torch.tensor([0.5, 0.5]), torch.randn(2, 8), torch.ones(2, 8))
        >>> posteriors(torch.randn(16, 8, 4, 4), mixture).shape
        torch.Size([16, 2, 4, 4])
    """
    x, packed, _ = _centred(input, mixture, single_gaussian(mixture), "layer")
    nu = gmm.posteriors(x, packed, eps)
    return nu.reshape(len(input), *input.shape[2:], len(mixture.weights)).movedim(-1, 1)


def _centred(
    input: Tensor, mixture: Mixture, gaussian: Mixture, granularity: Granularity
) -> tuple[Tensor, Mixture, Mixture]:
    """Convert rows and both mixtures to the form of :mod:`mn_lightning.gmm`, with the origin at the Gaussian's mean."""
    rows, packed, one = to_rows(upcast(input), granularity), pack(mixture, granularity), pack(gaussian, granularity)
    return (
        rows - one.means.unsqueeze(1),
        Mixture(packed.weights, packed.means - one.means, packed.variances),
        Mixture(one.weights, torch.zeros_like(one.means), one.variances),
    )
