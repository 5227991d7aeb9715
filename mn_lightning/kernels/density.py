"""Densities of rows under a mixture: posteriors (Eq. 31), and dropping components that hold nearly no rows."""

import math

import torch
from torch import Tensor

from mn_lightning.kernels.types import Mixture, weights_of
from mn_lightning.utils.distributed import ALONE, Processes


class LogJoint:
    """log λ_k + log p_k(x_i) (Eqs. 26-27) as one matrix product of rows and their squares.

    Args:
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: added to the variances.
    """

    def __init__(self, mixture: Mixture, reg_covar: float) -> None:
        variances = mixture.variances + reg_covar
        precision = variances.reciprocal()
        scaled_means = mixture.means * precision
        constant = (variances.log() + mixture.means * scaled_means + math.log(2 * math.pi)).sum(-1)
        self.factors = torch.cat([scaled_means, -precision / 2], dim=-1).unsqueeze(1)
        self.constant = (mixture.weights.log() - constant / 2)[:, None, :, None]
        self.unused = (mixture.weights == 0)[:, None, :, None]
        # One -inf for all components would make a NaN of the softmax over them.
        self.lowest = torch.finfo(variances.dtype).min / 4

    def __call__(self, z: Tensor) -> Tensor:
        """Values ``(G, B, K, M)`` of rows with their squares ``(G, B, 2D, M)``; finite also far from all components."""
        return (self.factors @ z + self.constant).clamp_min(self.lowest)

    def posteriors(self, z: Tensor) -> Tensor:
        """ν_k(x_i), ``(G, B, K, M)``, of rows with their squares; exactly 0 for a component of weight 0."""
        return self(z).masked_fill(self.unused, -math.inf).softmax(2)


def with_squares(x: Tensor, origin: Tensor | None = None) -> Tensor:
    """Rows relative to ``origin`` ``(G, 1, D)`` and their squares behind them: ``(G, B, M, D) -> (G, B, 2D, M)``."""
    values = (x if origin is None else x - origin.unsqueeze(1)).mT
    return torch.cat([values, values.square()], dim=2)


def log_joint(x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None = None) -> Tensor:
    """Return log λ_k + log p_k(x_i) (Eqs. 26-27), ``(G, B, M, K)``; finite also far from all components.

    ``reg_covar`` is added to the variances, as in scikit-learn.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: in squared units of ``x``.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Examples:
        >>> normal = Mixture(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        >>> log_joint(torch.zeros(1, 1, 1, 1), normal, reg_covar=0.0).exp()  # 1 / sqrt(2 π)
        tensor([[[[0.3989]]]])
    """
    return LogJoint(mixture, reg_covar)(with_squares(x, origin)).mT


def posteriors(x: Tensor, mixture: Mixture, reg_covar: float, origin: Tensor | None = None) -> Tensor:
    """Return ν_k(x_i) (Eq. 31), ``(G, B, M, K)``; exactly 0 for a component of weight 0.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        reg_covar: added to the variances.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Examples:
        >>> mixture = Mixture(torch.tensor([[0.5, 0.5]]), torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2, 1))
        >>> posteriors(torch.zeros(1, 1, 1, 1), mixture, reg_covar=0.0)
        tensor([[[[0.5000, 0.5000]]]])
    """
    return LogJoint(mixture, reg_covar).posteriors(with_squares(x, origin)).mT


def prune(joint: Tensor, min_weight: float, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Drop components that hold less than ``min_weight`` of the rows, and share their rows among the others.

    The sharing is done on the log scale, so that a row far from all that is left goes to the most likely of them
    instead of vanishing. The heaviest component is never dropped.

    Args:
        joint: :func:`log_joint` of the rows, ``(G, B, M, K)``.
        min_weight: smallest weight λ_k, a share of the rows, to keep a component.
        processes: those that have the rows between them.

    Returns:
        ν renormalized over the components in use, ``(G, B, M, K)``, and its sum λM over the rows, ``(G, K)``; both
        are 0 for a dropped component.

    Examples:
        >>> joint = torch.tensor([[0.9, 0.1], [0.995, 0.005]]).log()[None, None]
        >>> nu, counts = prune(joint, min_weight=0.1)  # the second holds 5% of the rows
        >>> counts
        tensor([[2., 0.]])
    """
    joint = joint.mT  # a component's values for all rows are in one piece of memory, which makes the softmax a fast one
    (counts,) = processes.sum(joint.softmax(2).sum((1, 3)))
    nu = joint.masked_fill(~kept(counts, min_weight)[:, None, :, None], -math.inf).softmax(2)
    (counts,) = processes.sum(nu.sum((1, 3)))
    return nu.mT, counts


def kept(counts: Tensor, min_weight: float) -> Tensor:
    """Which components stay, ``(G, K)`` bool, given the sums of ν over the rows."""
    weights = weights_of(counts)
    return (weights >= min_weight) | (weights == weights.amax(-1, keepdim=True))
