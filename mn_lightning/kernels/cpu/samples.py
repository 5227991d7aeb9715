"""ModeNorm's and ModeGroupNorm's passes: one affine map for each sample and channel, made of their own moments.

x is read once for the moments and once for the map; backward, x and dy are read twice. Nothing as large as they are is
made but the results.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.cpu import layout
from mn_lightning.kernels.cpu.heads import Running, computed
from mn_lightning.kernels.cpu.threads import in_parts
from mn_lightning.kernels.heads import RunningGates
from mn_lightning.kernels.inner_graph import differentiable_gradients, wants_gradients
from mn_lightning.kernels.types import Head
from mn_lightning.utils.precision import full_precision


def sample_affine(x: Tensor, centred: bool, head: Head, parameters: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Map each sample and channel of ``(N, C, *)`` by what ``head`` makes of their moments over ``*``."""
    wanted = wants_gradients(x, *parameters)
    if isinstance(head, RunningGates) and not wanted:
        return (_evaluate(x, head, parameters),)
    results: tuple[Tensor, ...] = _SampleAffine.apply(x, centred, head, wanted, *parameters)
    return results


class _Samples:
    """An activation as it lies in memory, and the loops for that.

    Args:
        x: ``(N, C, *)``.
    """

    def __init__(self, x: Tensor) -> None:
        from mn_lightning.kernels.cpu.loops import sample_planes, sample_rows

        self.samples, self.channels = x.shape[:2]
        self.size = x.numel()
        self.length = self.size // (self.samples * self.channels)
        self.in_planes = self.length > 1 and (self.channels == 1 or not layout.lies_in_rows(x))
        self.loops: Any = sample_planes if self.in_planes else sample_rows

    def array(self, x: Tensor) -> np.ndarray:
        """Planes ``(N C, L)`` or rows ``(N, L, C)``."""
        return layout.planes(x).reshape(-1, self.length) if self.in_planes else layout.rows(x)

    def empty(self, like: np.ndarray) -> np.ndarray:
        """Place for one number for each sample and channel, ``(N, C)``."""
        return np.empty((self.samples, self.channels), like.dtype)

    def moments(self, values: np.ndarray, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean of each sample and channel and, if ``centred``, biased variance, ``(N, C)``.

        A single row is its own mean; one row of zeros then stands for all variances.
        """
        if self.length == 1:
            return values.reshape(self.samples, self.channels), np.zeros((1, self.channels), values.dtype)
        mean, var = self.empty(values), self.empty(values)
        self.run(self.loops.moments, values, centred, self.each(mean), self.each(var))
        return mean, var

    def gradient_sums(self, values: np.ndarray, dy: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σ (x - mean) dy and Σ dy of each sample and channel, ``(N, C)``; one row of zeros if samples are rows."""
        if self.length == 1:
            return np.zeros((1, self.channels), dy.dtype), dy.reshape(self.samples, self.channels)
        product, total = self.empty(dy), self.empty(dy)
        self.run(self.loops.gradient_sums, values, dy, self.each(mean), self.each(product), self.each(total))
        return product, total

    def each(self, values: np.ndarray) -> np.ndarray:
        """One number for each sample and channel, ``(N, C)``, in the shape that the loops take."""
        return values.reshape(-1) if self.in_planes else values

    def run(self, loop: Any, *arrays: Any) -> None:
        """Run a loop over all samples."""
        count = self.samples * self.channels if self.in_planes else self.samples
        in_parts(lambda first, last: loop(*arrays, first, last), count, self.size)


def _evaluate(x: Tensor, head: RunningGates, parameters: tuple[Tensor | None, ...]) -> Tensor:
    samples, y = _Samples(x), layout.empty_like(x)
    values, out = samples.array(x), samples.array(y)
    arrays, loop = Running(head, parameters, values.dtype).all, samples.loops.evaluate
    in_parts(lambda first, last: loop(values, *arrays, out, first, last), samples.samples, samples.size)
    return y


class _SampleAffine(torch.autograd.Function):
    """y_ncl = x_ncl slope_nc + offset_nc, with slope, offset, ... = head(pooled moments of x, *parameters)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centred: bool, head: Head, wanted: bool, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *parameters)
        ctx.centred, ctx.head = centred, head
        samples = ctx.samples = _Samples(x)
        loops, each, values = samples.loops, samples.each, samples.array(x)
        pooled, within = samples.moments(values, centred)
        ctx.pooled = pooled
        made = ctx.head_of_moments = computed(head, pooled, within if centred else None, parameters, wanted)
        y = layout.empty_like(x)
        samples.run(loops.affine, values, each(made.slope), each(made.offset), samples.array(y))
        ctx.mark_non_differentiable(*made.others)
        return y, *made.others

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        dy = grads[0]
        if torch.is_grad_enabled():
            y, *_ = reference.sample_affine(x, ctx.centred, ctx.head, tuple(parameters))
            dx, *of_parameters = differentiable_gradients(y, dy, (x, *parameters))
            return (dx, None, None, None, *of_parameters)
        samples, made, pooled = ctx.samples, ctx.head_of_moments, ctx.pooled
        loops, each, values, upper = samples.loops, samples.each, samples.array(x), samples.array(dy)
        d_pooled, d_within, of_parameters = made.backward(*samples.gradient_sums(values, upper, pooled))
        if not ctx.needs_input_grad[0]:
            return (None, None, None, None, *of_parameters)
        dx = layout.empty_like(x)
        out = samples.array(dx)
        if samples.length == 1:
            samples.run(loops.affine, upper, made.slope, d_pooled, out)
        else:
            arrays = each(pooled), each(made.slope), each(d_within), each(d_pooled)
            samples.run(loops.gradient, values, upper, *arrays, out)
        return (dx, None, None, None, *of_parameters)
