"""The heads that ModeNorm and ModeGroupNorm give to ``sample_affine``, by loops; others go through autograd."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels.cpu.learned import Learned
from mn_lightning.kernels.cpu.threads import in_parts
from mn_lightning.kernels.heads import BatchGates, GroupGates, RunningGates
from mn_lightning.kernels.inner_graph import InnerGraph
from mn_lightning.kernels.types import Head

Parameters = tuple[Tensor | None, ...]
Gradients = tuple[Tensor, Tensor | None, list[Tensor | None]]
"""Of pooled, of within, of the parameters."""

_DEFAULTS = (None, None, 1.0, 0.0)
"""For W, b, γ and β."""


def computed(
    head: Head, pooled: Tensor, within: Tensor | None, parameters: Parameters, wanted: bool
) -> "_Gates | _GroupGates | _Other":
    """What ``head`` makes of the moments: its attribute ``outputs``, and its method ``backward``."""
    if isinstance(head, GroupGates):
        return _GroupGates(head, pooled, within, parameters)
    if isinstance(head, RunningGates) or (isinstance(head, BatchGates) and head.processes.size == 1):
        return _Gates(head, pooled, within, parameters)
    return _Other(head, pooled, within, parameters, wanted)


class _Other:
    """Any head, by autograd."""

    def __init__(self, head: Head, pooled: Tensor, within: Tensor | None, parameters: Parameters, wanted: bool) -> None:
        self.pooled = pooled
        self.inner = InnerGraph(head, (pooled,) if within is None else (pooled, within), parameters, wanted)
        self.outputs = self.inner.outputs

    def backward(self, product: Tensor, total: Tensor) -> Gradients:
        """Gradients from Σ (x - pooled) dy and Σ dy, ``(N, C)``."""
        moments, of_parameters = self.inner.backward(product.addcmul(self.pooled, total), total)
        return moments[0], moments[1] if len(moments) == 2 else None, of_parameters


class _Gates:
    """:class:`BatchGates` and :class:`RunningGates`."""

    def __init__(
        self, head: BatchGates | RunningGates, pooled: Tensor, within: Tensor | None, parameters: Parameters
    ) -> None:
        from mn_lightning.kernels.cpu.loops import gates

        loops: Any = gates
        self.loops, self.head, self.dtype = loops, head, pooled.dtype
        self.learned = Learned(parameters, _DEFAULTS, pooled.shape[1], pooled.dtype)
        gate_weight, gate_bias, weight, bias = self.learned.arrays
        self.pooled, modes = pooled.numpy(), len(gate_bias)
        self.gates = np.empty((len(pooled), modes), self.pooled.dtype)
        log_gates = np.empty_like(self.gates)
        loops.find_gates(self.pooled, gate_weight, gate_bias, self.gates, log_gates)
        slope, offset = torch.empty_like(pooled), torch.empty_like(pooled)
        others: tuple[Tensor, ...] = ()
        if isinstance(head, BatchGates):
            assert within is not None
            self.within, self.shares = within.numpy(), np.empty_like(self.gates)
            mean, var = (torch.empty(modes, pooled.shape[1], dtype=pooled.dtype) for _ in range(2))
            self.mean, self.var = mean.numpy(), var.numpy()
            loops.batch_moments(self.pooled, self.within, log_gates, self.shares, self.mean, self.var)
            rows = len(pooled) * head.length
            others = mean.clone(), var * (rows / (rows - 1))
        else:
            self.mean, self.var = (
                values.detach().to(pooled.dtype).contiguous().numpy() for values in (head.mean, head.var)
            )
        loops.maps_of_gates(self.gates, self.mean, self.var, weight, bias, head.eps, slope.numpy(), offset.numpy())
        self.outputs = (slope, offset, *others)

    def backward(self, product: Tensor, total: Tensor) -> Gradients:
        """Gradients from Σ (x - pooled) dy and Σ dy, ``(N, C)``."""
        loops, eps = self.loops, self.head.eps
        gate_weight, _, weight, _ = self.learned.arrays
        found = self.learned.empty()
        d_gates, d_mean, d_var = np.empty_like(self.gates), np.empty_like(self.mean), np.empty_like(self.mean)
        loops.gradients_of_maps(
            *(self.pooled, self.gates, self.mean, self.var, weight, eps, product.numpy(), total.numpy()),
            *(d_gates, d_mean, d_var, *found[2:]),
        )
        d_pooled, d_within = torch.zeros_like(product), None
        shares = d_shares = np.zeros_like(self.gates)
        if isinstance(self.head, BatchGates):
            shares, d_shares, d_within = self.shares, np.empty_like(self.gates), torch.empty_like(product)
            loops.gradients_of_moments(
                *(self.pooled, self.within, shares, self.mean, d_mean, d_var),
                *(d_shares, d_pooled.numpy(), d_within.numpy()),
            )
        loops.gradients_of_gates(
            self.pooled, gate_weight, self.gates, shares, d_gates, d_shares, d_pooled.numpy(), *found[:2]
        )
        return d_pooled, d_within, self.learned.gradients(found)


class _GroupGates:
    """:class:`GroupGates`."""

    def __init__(self, head: GroupGates, pooled: Tensor, within: Tensor | None, parameters: Parameters) -> None:
        from mn_lightning.kernels.cpu.loops import group_gates

        assert within is not None
        loops: Any = group_gates
        self.loops, self.eps = loops, head.eps
        self.learned = Learned(parameters, _DEFAULTS, pooled.shape[1], pooled.dtype)
        self.pooled, self.within = pooled.numpy(), within.numpy()
        samples, modes = len(pooled), len(self.learned.arrays[1])
        self.gates = np.empty((samples, modes, pooled.shape[1]), self.pooled.dtype)
        self.shares = np.empty_like(self.gates)
        self.mean, self.var = (
            np.empty((samples, modes), self.pooled.dtype),
            np.empty((samples, modes), self.pooled.dtype),
        )
        slope, offset = torch.empty_like(pooled), torch.empty_like(pooled)
        arrays = self.gates, self.shares, self.mean, self.var, slope.numpy(), offset.numpy()

        def part(first: int, last: int) -> None:
            loops.maps(self.pooled, self.within, *self.learned.arrays, head.eps, *arrays, first, last)

        in_parts(part, samples, self.gates.size)
        self.outputs = (slope, offset)

    def backward(self, product: Tensor, total: Tensor) -> Gradients:
        """Gradients from Σ (x - pooled) dy and Σ dy, ``(N, C)``."""
        gate_weight, _, weight, _ = self.learned.arrays
        found = self.learned.empty()
        d_pooled, d_within = torch.empty_like(product), torch.empty_like(product)
        self.loops.gradients(
            *(self.pooled, self.within, gate_weight, weight, self.eps, self.gates, self.shares, self.mean, self.var),
            *(product.numpy(), total.numpy(), d_pooled.numpy(), d_within.numpy(), *found),
        )
        return d_pooled, d_within, self.learned.gradients(found)
