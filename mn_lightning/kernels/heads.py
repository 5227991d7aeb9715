"""ModeNorm's and ModeGroupNorm's formulas between their large passes: from moments and gates to an affine map.

Each is a ``head`` of ``sample_affine``, in torch's operations. A backend may know faster ways to compute them.
``pooled`` and ``within`` are the means and variances of each sample and channel over ``*``, ``(N, C)``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mn_lightning.kernels.autograd import matmul, weighted_moments
from mn_lightning.utils.distributed import Processes


@dataclass(slots=True)
class BatchGates:
    """ModeNorm in training (Algorithm 1): the modes' moments are those of this batch.

    Attributes:
        eps: added to the variances.
        length: pixels of a sample.
        processes: those that hold the batch between them.
    """

    eps: float
    length: int
    processes: Processes

    def __call__(
        self,
        pooled: Tensor,
        within: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Slope and offset, ``(N, C)``; then the moments, ``(K, C)``, the variance unbiased.

        Args:
            pooled: ``(N, C)``.
            within: ``(N, C)``.
            gate_weight: ``(K, C)``.
            gate_bias: ``(K,)``.
            weight: ``(C,)``.
            bias: ``(C,)``.
        """
        processes = self.processes
        log_gates = _log_gates(pooled, gate_weight, gate_bias)
        shares = _softmax_over_samples(log_gates, processes)
        total, samples = processes.sum(pooled.detach().sum(0), pooled.new_full((), len(pooled)))
        shift = total / samples
        between_mean, between_var = weighted_moments((pooled - shift)[None, None], shares[None, None], processes)
        mean = between_mean[0] + shift
        var = between_var[0] + processes.sum(matmul(shares.mT, within))[0]
        rows = samples * self.length
        return *_maps_of_gates(log_gates, mean, var, weight, bias, self.eps), mean, var * (rows / (rows - 1))


@dataclass(slots=True)
class RunningGates:
    """ModeNorm at inference (Algorithm 2): the modes' moments are the running ones.

    Attributes:
        mean: ``(K, C)``.
        var: ``(K, C)``.
        eps: added to the variances.
    """

    mean: Tensor
    var: Tensor
    eps: float

    def __call__(
        self, pooled: Tensor, gate_weight: Tensor, gate_bias: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Slope and offset, ``(N, C)``; arguments as in :class:`BatchGates`."""
        log_gates = _log_gates(pooled, gate_weight, gate_bias)
        return _maps_of_gates(log_gates, self.mean.to(pooled.dtype), self.var.to(pooled.dtype), weight, bias, self.eps)


@dataclass(slots=True)
class GroupGates:
    """ModeGroupNorm (Algorithm 3): the modes' moments are taken over a sample's channels.

    Attributes:
        eps: added to the variances.
    """

    eps: float

    def __call__(
        self,
        pooled: Tensor,
        within: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Slope and offset, ``(N, C)``; gates have one weight and bias for each mode, ``(K,)``."""
        logits = pooled.unsqueeze(-1) * gate_weight.to(pooled.dtype) + gate_bias.to(pooled.dtype)
        shares = logits.log_softmax(-1).softmax(1)  # g_ck / Σ_c g_ck, finite for a mode that no channel uses
        mean = (shares * pooled.unsqueeze(-1)).sum(1, keepdim=True)
        var = (shares * (within.unsqueeze(-1) + (pooled.unsqueeze(-1) - mean).square())).sum(1)
        inverse = (var + self.eps).rsqrt()
        slope = inverse.mean(-1, keepdim=True)
        offset = -(mean.squeeze(1) * inverse).mean(-1, keepdim=True)
        if weight is not None:
            weight = weight.to(pooled.dtype)  # once: both products' gradients cancel; each may be beyond float16
            slope, offset = slope * weight, offset * weight
        if bias is not None:
            offset = offset + bias.to(pooled.dtype)
        return slope.expand_as(pooled), offset.expand_as(pooled)


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
