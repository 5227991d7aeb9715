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
) -> "_BatchGates | _RunningGates | _GroupGates | _Other":
    """What ``head`` makes of the moments.

    ``slope`` and ``offset`` are ``(N, C)``, ``others`` what it returns beside them; ``backward`` takes
    Σ (x - pooled) dy and Σ dy, ``(N, C)``. Of samples that are single rows, ``within`` and the first of these have one
    row of zeros that stands for all.
    """
    if isinstance(head, GroupGates):
        return _GroupGates(head, pooled, within, parameters)
    if isinstance(head, RunningGates):
        return _RunningGates(head, pooled, parameters)
    if isinstance(head, BatchGates) and head.processes.size == 1 and within is not None:
        return _BatchGates(head, pooled, within, parameters)
    return _Other(head, pooled, within, parameters, wanted)


class _Other:
    """Any head, by autograd."""

    def __init__(
        self, head: Head, pooled: np.ndarray, within: np.ndarray | None, parameters: Parameters, wanted: bool
    ) -> None:
        self.pooled = pooled
        moments = [torch.from_numpy(v).expand(pooled.shape) for v in (pooled, within) if v is not None]
        self.inner = InnerGraph(head, moments, parameters, wanted)
        slope, offset, *self.others = self.inner.outputs
        self.slope, self.offset = (values.contiguous().numpy() for values in (slope, offset))

    def backward(self, product: np.ndarray, total: np.ndarray) -> Gradients:
        """Gradients, by autograd."""
        given = (torch.from_numpy(values) for values in (product + self.pooled * total, total))
        moments, of_parameters = self.inner.backward(*given)
        d_pooled, *d_within = (values.contiguous().numpy() for values in moments)
        return d_pooled, d_within[0] if d_within else np.zeros_like(d_pooled), of_parameters


class _BatchGates:
    """:class:`BatchGates` of one process."""

    def __init__(self, head: BatchGates, pooled: np.ndarray, within: np.ndarray, parameters: Parameters) -> None:
        from mn_lightning.kernels.cpu.loops import gates

        loops: Any = gates
        self.loops, self.eps, self.pooled, self.within = loops, head.eps, pooled, within
        self.learned = Learned(parameters, _DEFAULTS, pooled.shape[1], pooled.dtype)
        gate_weight, gate_bias, *_ = self.learned.arrays
        self.gates = np.empty((len(pooled), len(gate_bias)), pooled.dtype)
        self.shares = np.empty_like(self.gates)
        self.mean, self.var = np.empty_like(gate_weight), np.empty_like(gate_weight)
        self.slope, self.offset = np.empty_like(pooled), np.empty_like(pooled)
        found = self.gates, self.shares, self.mean, self.var, self.slope, self.offset
        loops.of_batch(pooled, within, *self.learned.arrays, head.eps, *found)
        rows = len(pooled) * head.length
        self.others = torch.from_numpy(self.mean.copy()), torch.from_numpy(self.var * (rows / (rows - 1)))

    def backward(self, product: np.ndarray, total: np.ndarray) -> Gradients:
        """Gradients, by loops."""
        gate_weight, _, weight, _ = self.learned.arrays
        found = self.learned.empty()
        d_pooled, d_within = np.empty_like(total), np.empty_like(product)
        self.loops.gradients_of_batch(
            *(self.pooled, self.within, gate_weight, weight, self.eps, self.gates, self.shares, self.mean, self.var),
            *(product, total, d_pooled, d_within, *found),
        )
        return d_pooled, d_within, self.learned.gradients(found)


class Running:
    """The arrays of :class:`RunningGates`.

    Args:
        head: the gates.
        parameters: W, b, γ and β.
        dtype: of the activation.
    """

    def __init__(self, head: RunningGates, parameters: Parameters, dtype: np.dtype) -> None:
        self.learned = Learned(parameters, _DEFAULTS, head.mean.shape[1], dtype)
        number = torch_type(dtype)
        # Copies: a step of training may come before the backward pass.
        mean, var = (values.detach().to(number, copy=True).contiguous().numpy() for values in (head.mean, head.var))
        self.moments, self.all = (mean, var), (mean, var, *self.learned.arrays, head.eps)


class _RunningGates:
    """:class:`RunningGates`."""

    def __init__(self, head: RunningGates, pooled: np.ndarray, parameters: Parameters) -> None:
        from mn_lightning.kernels.cpu.loops import gates

        loops: Any = gates
        self.loops, self.eps, self.pooled, self.others = loops, head.eps, pooled, ()
        self.arrays = Running(head, parameters, pooled.dtype)
        self.gates = np.empty((len(pooled), len(head.mean)), pooled.dtype)
        self.slope, self.offset = np.empty_like(pooled), np.empty_like(pooled)
        loops.of_running(pooled, *self.arrays.all, self.gates, self.slope, self.offset)

    def backward(self, product: np.ndarray, total: np.ndarray) -> Gradients:
        """Gradients, by loops."""
        learned = self.arrays.learned
        gate_weight, _, weight, _ = learned.arrays
        found, d_pooled = learned.empty(), np.zeros_like(total)
        given = self.pooled, *self.arrays.moments, gate_weight, weight, self.eps, self.gates, product, total
        self.loops.gradients_of_running(*given, d_pooled, *found)
        return d_pooled, np.zeros_like(product), learned.gradients(found)


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
        d_pooled, d_within = np.empty_like(total), np.empty_like(product)
        self.loops.gradients(
            *(self.pooled, self.within, gate_weight, weight, self.eps, self.gates, self.shares, self.mean, self.var),
            *(product, total, d_pooled, d_within, *found),
        )
        return d_pooled, d_within, self.learned.gradients(found)
