"""The Fréchet distance between two normal distributions, in real arithmetic."""

import torch
from torch import Tensor


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    r"""Compute the squared Fréchet (2-Wasserstein) distance of two normal distributions.

    .. math:: \|\mu_1 - \mu_2\|^2 + \mathrm{tr}(\Sigma_1) + \mathrm{tr}(\Sigma_2)
       - 2\,\mathrm{tr}\bigl((\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\bigr)

    This is FID's formula (Heusel et al., arXiv:1706.08500, Eq. 6; Dowson & Landau, 1982). The matrix under the root has
    the eigenvalues of :math:`\Sigma_1 \Sigma_2` and is symmetric. So two eigendecompositions of symmetric matrices
    replace the complex ``sqrtm`` of an asymmetric matrix that others use. Covariances may be rank deficient.

    Args:
        mean_1: ``(D,)``.
        cov_1: ``(D, D)``, symmetric and positive semidefinite.
        mean_2: ``(D,)``.
        cov_2: ``(D, D)``, likewise.

    Returns:
        0-d float64, at least 0, in squared units of the features; NaN where an argument is not finite.

    Raises:
        ValueError: if the shapes do not match.

    Examples:
        >>> identity = torch.eye(3)
        >>> distance = frechet_distance(torch.zeros(3), identity, torch.ones(3), 4 * identity)
        >>> round(float(distance), 6)  # 3 (1 - 0)² + 3 (2 - 1)²
        6.0
    """
    shapes = [tuple(x.shape) for x in (mean_1, cov_1, mean_2, cov_2)]
    size = mean_1.numel()
    if shapes != [(size,), (size, size)] * 2:
        raise ValueError(
            f"frechet_distance got shapes {', '.join(map(str, shapes))}; it takes (D,), (D, D), (D,), (D, D)"
        )
    mean_1, cov_1, mean_2, cov_2 = (x.double() for x in (mean_1, cov_1, mean_2, cov_2))
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace()
    if not (distance.isfinite() and cov_1.isfinite().all() and cov_2.isfinite().all()):
        return torch.full_like(distance, torch.nan)
    values, vectors = torch.linalg.eigh(cov_1)
    positive = _above_rounding(values)
    # Only directions in which cov_1 has variance: directions of mere rounding errors would each add their square root.
    root = vectors[:, positive] * values[positive].sqrt()
    product = root.T @ cov_2 @ root
    values = torch.linalg.eigvalsh((product + product.T) / 2)
    root_trace: Tensor = values[_above_rounding(values)].sqrt().sum()
    return (distance - 2 * root_trace).clamp(min=0)


def mean_and_covariance(total: Tensor, outer: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute mean ``(D,)`` and unbiased covariance ``(D, D)`` from sums over samples.

    Args:
        total: sum of the features, float64 ``(D,)``.
        outer: sum of their outer products, float64 ``(D, D)``.
        count: number of samples.

    Returns:
        Mean ``(D,)`` and covariance ``(D, D)``, divided by ``count - 1``.

    Raises:
        ValueError: if there are fewer than two samples.

    Examples:
        >>> x = torch.randn(100, 3).double()
        >>> mean, covariance = mean_and_covariance(x.sum(0), x.T @ x, len(x))
        >>> torch.allclose(covariance, x.T.cov())
        True
    """
    if count < 2:
        raise ValueError(f"mean_and_covariance got {count} samples; a covariance takes 2 or more")
    mean = total / count
    return mean, (outer - count * mean.outer(mean)) / (count - 1)


def _above_rounding(values: Tensor) -> Tensor:
    """Mask of those ascending eigenvalues ``(D,)`` that exceed the rounding error of the largest one."""
    if not len(values):
        return values > 0
    return values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
