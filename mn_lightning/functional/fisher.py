"""Fisher vectors, the theory of Kalayeh & Shah as a function."""

import torch
from torch import Tensor

from mn_lightning.functional.rows import pack, upcast
from mn_lightning.kernels.density import posteriors
from mn_lightning.kernels.types import Mixture, mean_of
from mn_lightning.utils.precision import full_precision


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
        >>> from mn_lightning.functional import fit_mixture, mixture_norm
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
    origin = mean_of(mixture)
    mixture, rows = mixture._replace(means=mixture.means - origin), upcast(x) - origin[0]
    nu = posteriors(rows[None, None], mixture, reg_covar=0.0)[0, 0] * torch.where(weights > 0, weights, 1).rsqrt()
    z = (rows.unsqueeze(1) - mixture.means[0]) * mixture.variances[0].rsqrt()
    return nu.unsqueeze(-1) * z, nu.unsqueeze(-1) * (z.square() - 1) / 2**0.5
