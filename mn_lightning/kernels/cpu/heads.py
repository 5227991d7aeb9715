"""The heads that ModeNorm and ModeGroupNorm give to ``sample_affine``, by loops; others go through autograd."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels.cpu.layout import torch_type
from mn_lightning.kernels.cpu.learned import Learned
from mn_lightning.kernels.cpu.threads import in_parts
from mn_lightning.kernels.heads import BatchGates, GroupGates, RunningGates
from mn_lightning.kernels.inner_graph import InnerGraph
from mn_lightning.kernels.types import Head

Parameters = tuple[Tensor | None, ...]
Gradients = tuple[np.ndarray, np.ndarray, list[Tensor | None]]
"""Of pooled, of within, of the parameters."""

_DEFAULTS = (None, None, 1.0, 0.0)
"""For W, b, γ and β."""


def computed(
    head: Head, pooled: np.ndarray, within: np.ndarray | None, parameters: Parameters, wanted: bool
) -> "_Gates | _GroupGates | _Other":
    """What ``head`` makes of the moments.

    ``slope`` and ``offset`` are ``(N, C)``, ``others`` what it returns beside them; ``backward`` takes
    Σ (x - pooled) dy and Σ dy, ``(N, C)``.
    """
    if isinstance(head, GroupGates):
        return _GroupGates(head, pooled, within, parameters)
    if isinstance(head, RunningGates) or (isinstance(head, BatchGates) and head.processes.size == 1):
        return _Gates(head, pooled, within, parameters)
    return _Other(head, pooled, within, parameters, wanted)


class _Other:
    """Any head, by autograd."""

    def __init__(
        self, head: Head, pooled: np.ndarray, within: np.ndarray | None, parameters: Parameters, wanted: bool
    ) -> None:
        self.pooled = pooled
        moments = [torch.from_numpy(values) for values in (pooled, within) if values is not None]
        self.inner = InnerGraph(head, moments, parameters, wanted)
        slope, offset, *self.others = self.inner.outputs
        self.slope, self.offset = (values.contiguous().numpy() for values in (slope, offset))

    def backward(self, product: np.ndarray, total: np.ndarray) -> Gradients:
        """Gradients, by autograd."""
        given = (torch.from_numpy(values) for values in (product + self.pooled * total, total))
        moments, of_parameters = self.inner.backward(*given)
        d_pooled, *d_within = (values.contiguous().numpy() for values in moments)
        return d_pooled, d_within[0] if d_within else np.zeros_like(d_pooled), of_parameters


class _Gates:
    """:class:`BatchGates` and :class:`RunningGates`."""

    def __init__(
        self, head: BatchGates | RunningGates, pooled: np.ndarray, within: np.ndarray | None, parameters: Parameters
    ) -> None:
        from mn_lightning.kernels.cpu.loops import gates

        loops: Any = gates
        self.loops, self.head, self.pooled, dtype = loops, head, pooled, pooled.dtype
        self.learned = Learned(parameters, _DEFAULTS, pooled.shape[1], dtype)
        gate_weight, gate_bias, weight, bias = self.learned.arrays
        self.gates = np.empty((len(pooled), len(gate_bias)), dtype)
        log_gates = np.empty_like(self.gates)
        loops.find_gates(pooled, gate_weight, gate_bias, self.gates, log_gates)
        self.others: tuple[Tensor, ...] = ()
        if isinstance(head, BatchGates):
            assert within is not None
            self.within, self.shares = within, np.empty_like(self.gates)
            self.mean, self.var = np.empty_like(gate_weight), np.empty_like(gate_weight)
            loops.batch_moments(pooled, within, log_gates, self.shares, self.mean, self.var)
            rows = len(pooled) * head.length
            self.others = torch.from_numpy(self.mean.copy()), torch.from_numpy(self.var * (rows / (rows - 1)))
        else:
            self.mean, self.var = (
                values.detach().to(torch_type(dtype)).contiguous().numpy() for values in (head.mean, head.var)
            )
        self.slope, self.offset = np.empty_like(pooled), np.empty_like(pooled)
        loops.maps_of_gates(self.gates, self.mean, self.var, weight, bias, head.eps, self.slope, self.offset)

    def backward(self, product: np.ndarray, total: np.ndarray) -> Gradients:
        """Gradients, by loops."""
        loops, eps = self.loops, self.head.eps
        gate_weight, _, weight, _ = self.learned.arrays
        found = self.learned.empty()
        d_gates, d_mean, d_var = np.empty_like(self.gates), np.empty_like(self.mean), np.empty_like(self.mean)
        loops.gradients_of_maps(
            *(self.pooled, self.gates, self.mean, self.var, weight, eps, product, total),
            *(d_gates, d_mean, d_var, *found[2:]),
        )
        d_pooled, d_within = np.zeros_like(product), np.zeros_like(product)
        shares = d_shares = np.zeros_like(self.gates)
        if isinstance(self.head, BatchGates):
            shares, d_shares = self.shares, np.empty_like(self.gates)
            loops.gradients_of_moments(
                *(self.pooled, self.within, shares, self.mean, d_mean, d_var, d_shares, d_pooled, d_within)
            )
        loops.gradients_of_gates(self.pooled, gate_weight, self.gates, shares, d_gates, d_shares, d_pooled, *found[:2])
        return d_pooled, d_within, self.learned.gradients(found)


class _GroupGates:
    """:class:`GroupGates`."""

    def __init__(self, head: GroupGates, pooled: np.ndarray, within: np.ndarray | None, parameters: Parameters) -> None:
        from mn_lightning.kernels.cpu.loops import group_gates

        assert within is not None
        loops: Any = group_gates
        self.loops, self.eps, self.pooled, self.within, dtype = loops, head.eps, pooled, within, pooled.dtype
        self.learned, self.others = Learned(parameters, _DEFAULTS, pooled.shape[1], dtype), ()
        samples, modes = len(pooled), len(self.learned.arrays[1])
        self.gates = np.empty((samples, modes, pooled.shape[1]), dtype)
        self.shares = np.empty_like(self.gates)
        self.mean, self.var = np.empty((samples, modes), dtype), np.empty((samples, modes), dtype)
        self.slope, self.offset = np.empty_like(pooled), np.empty_like(pooled)
        arrays = self.gates, self.shares, self.mean, self.var, self.slope, self.offset

        def part(first: int, last: int) -> None:
            loops.maps(pooled, within, *self.learned.arrays, head.eps, *arrays, first, last)

        in_parts(part, samples, self.gates.size)

    def backward(self, product: np.ndarray, total: np.ndarray) -> Gradients:
        """Gradients, by loops."""
        gate_weight, _, weight, _ = self.learned.arrays
        found = self.learned.empty()
        d_pooled, d_within = np.empty_like(product), np.empty_like(product)
        self.loops.gradients(
            *(self.pooled, self.within, gate_weight, weight, self.eps, self.gates, self.shares, self.mean, self.var),
            *(product, total, d_pooled, d_within, *found),
        )
        return d_pooled, d_within, self.learned.gradients(found)
