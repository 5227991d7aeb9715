"""ModeNorm's and ModeGroupNorm's passes: one affine map for each sample and channel, made of their own moments.

x is read once for the moments and once for the map; backward, x and dy are read twice. Nothing as large as they are is
made but the results.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.cpu.heads import computed
from mn_lightning.kernels.cpu.threads import in_parts
from mn_lightning.kernels.inner_graph import differentiable_gradients, wants_gradients
from mn_lightning.kernels.types import Head
from mn_lightning.utils.precision import full_precision


def sample_affine(x: Tensor, centred: bool, head: Head, parameters: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Map each sample and channel of ``(N, C, *)`` by what ``head`` makes of their moments over ``*``."""
    wanted = wants_gradients(x, *parameters)
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
        self.length = x.numel() // (self.samples * self.channels)
        in_rows = x.movedim(1, -1).is_contiguous()
        self.dense = in_rows or x.is_contiguous()
        self.in_planes = self.length > 1 and (self.channels == 1 or not in_rows)
        self.loops: Any = sample_planes if self.in_planes else sample_rows

    def array(self, x: Tensor) -> np.ndarray:
        """Planes ``(N C, L)`` or rows ``(N, L, C)``; a copy if ``x`` has gaps."""
        x = x.detach()
        if self.in_planes:
            return x.contiguous().view(-1, self.length).numpy()
        return x.movedim(1, -1).contiguous().view(self.samples, self.length, self.channels).numpy()

    def empty(self, x: Tensor) -> tuple[Tensor, np.ndarray]:
        """A tensor like ``x`` to write to, and its array."""
        # No view: what follows may write into it in place.
        result = (
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
            if self.dense
            else torch.empty(x.shape, dtype=x.dtype)
        )
        return result, self.array(result)

    def each(self, values: Tensor) -> np.ndarray:
        """One number for each sample and channel, ``(N, C)``, in the shape that the loops take."""
        array = values.detach().contiguous().numpy()
        return array.reshape(-1) if self.in_planes else array

    def run(self, loop: Any, *arrays: Any) -> None:
        """Run a loop over all samples."""
        count = self.samples * self.channels if self.in_planes else self.samples
        in_parts(lambda first, last: loop(*arrays, first, last), count, self.samples * self.channels * self.length)


class _SampleAffine(torch.autograd.Function):
    """y_ncl = x_ncl slope_nc + offset_nc, with slope, offset, ... = head(pooled moments of x, *parameters)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, centred: bool, head: Head, wanted: bool, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *parameters)
        ctx.centred, ctx.head = centred, head
        samples = ctx.samples = _Samples(x)
        loops, array = samples.loops, samples.array(x)
        moments = [x.new_empty(x.shape[:2]) for _ in range(2)]
        samples.run(loops.moments, array, centred, *(samples.each(moment) for moment in moments))
        pooled, within = moments
        ctx.pooled = pooled
        ctx.head_of_moments = computed(head, pooled, within if centred else None, parameters, wanted)
        slope, offset, *others = ctx.head_of_moments.outputs
        y, out = samples.empty(x)
        samples.run(loops.affine, array, samples.each(slope), samples.each(offset), out)
        ctx.mark_non_differentiable(*others)
        return y, *others

    @staticmethod
    @full_precision
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        dy = grads[0]
        if torch.is_grad_enabled():
            y, *_ = reference.sample_affine(x, ctx.centred, ctx.head, tuple(parameters))
            dx, *of_parameters = differentiable_gradients(y, dy, (x, *parameters))
            return (dx, None, None, None, *of_parameters)
        samples, made = ctx.samples, ctx.head_of_moments
        loops, each, values, upper = samples.loops, samples.each, samples.array(x), samples.array(dy)
        slope, pooled = made.outputs[0], ctx.pooled
        product, total = torch.empty_like(pooled), torch.empty_like(pooled)
        samples.run(loops.gradient_sums, values, upper, each(pooled), each(product), each(total))
        d_pooled, d_within, of_parameters = made.backward(product, total)
        if not ctx.needs_input_grad[0]:
            return (None, None, None, None, *of_parameters)
        constant = d_pooled / samples.length
        # The variance depends on the mean only through the sum of deviations from it, which is zero.
        by_x = torch.zeros_like(pooled) if d_within is None else d_within * (2 / samples.length)
        dx, out = samples.empty(x)
        samples.run(loops.gradient, values, upper, each(pooled), each(slope), each(by_x), each(constant), out)
        return (dx, None, None, None, *of_parameters)
