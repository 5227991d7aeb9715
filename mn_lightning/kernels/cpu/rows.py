"""Rows of an activation as they lie in memory, cut into blocks, and the loops for that layout."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels.cpu import layout
from mn_lightning.kernels.cpu.threads import cuts_of, in_parts

PLANE_BLOCK, ROW_BLOCK = 2**17, 2**15
"""About how many numbers are in a block: it stays in the second-level cache."""

LONGEST_PLANE_BLOCK, LONGEST_ROW_BLOCK = 1024, 256
"""How many rows are in a block at most: what is kept for each stays in the first-level cache."""


ROWS_PER_CUT = 64
"""How many rows a part with sums of its own has at least: these are 4 K numbers for each channel."""


class Density(NamedTuple):
    """log λ_k p_k(x) = constant_k - Σ_d (steep_kd x_d + shift_kd)²."""

    constant: np.ndarray
    steep: np.ndarray
    shift: np.ndarray


class Rows:
    """Rows in memory.

    Args:
        values: planes ``(N, D, L)`` or rows ``(M, D)``.
    """

    def __init__(self, values: np.ndarray) -> None:
        from mn_lightning.kernels.cpu.loops import mixture, mixture_planes, mixture_rows

        self.values, self.size, self.features = values, values.size, values.shape[1]
        self.count = self.size // self.features
        self.shared = mixture
        self.in_planes = values.ndim == 3
        self.loops: Any = mixture_planes if self.in_planes else mixture_rows
        if self.in_planes:
            samples, features, pixels = values.shape
            longest = min(LONGEST_PLANE_BLOCK, max(64, PLANE_BLOCK // features))
            each = -(-pixels // longest)
            self.length, self.blocks = -(-pixels // each), samples * each
        else:
            self.length = min(self.count, LONGEST_ROW_BLOCK, max(16, ROW_BLOCK // self.features // 4 * 4))
            self.blocks = -(-self.count // self.length)
        cuts = cuts_of(self.size, min(self.blocks, max(1, self.count // ROWS_PER_CUT)))
        self.cuts = np.array([cut * self.blocks // cuts for cut in range(cuts + 1)])
        """At which block each of the parts starts that have sums of their own."""

    @classmethod
    def of(cls, observations: Tensor) -> "Rows":
        """Observations ``(1, B, M, D)``: views of planes and dense rows are taken as they are, others are copied."""
        x = observations.detach()
        if x.mT.is_contiguous() and (x.shape[3] == 1 or not x.is_contiguous()):
            return cls(x[0].mT.numpy())
        return cls(x.contiguous().view(-1, x.shape[3]).numpy())

    def array(self, x: Tensor) -> np.ndarray:
        """An activation ``(N, C, *)`` as these rows lie."""
        return layout.planes(x) if self.in_planes else layout.rows(x).reshape(-1, self.features)

    def empty_posteriors(self, components: int) -> Tensor:
        """Where ν goes, ``(blocks, K, length)``."""
        return torch.empty(self.blocks, components, self.length, dtype=layout.torch_type(self.values.dtype))

    def density(self, weights: np.ndarray, means: np.ndarray, variances: np.ndarray, reg_covar: float) -> Density:
        """Of weights ``(K,)``, means and variances ``(K, D)``."""
        density = Density(np.empty_like(weights), np.empty_like(means), np.empty_like(means))
        self.shared.densities(weights, means, variances, reg_covar, *density)
        return density

    def nearest(self, centers: np.ndarray) -> Density:
        """What is largest for the nearest of the centers ``(K, D)``."""
        return Density(np.zeros(len(centers), centers.dtype), np.ones_like(centers), -centers)

    def sums(
        self, kind: int, density: Density, center: np.ndarray, nu: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the rows once.

        Args:
            kind: what the posteriors are, as the loop has it.
            density: what they are found with.
            center: what sums are taken around, ``(D,)``.
            nu: where they go.

        Returns:
            Σν, ``(K,)``, and Σν(x - center) and Σν(x - center)², ``(2, K, D)``, in float64.
        """
        components = len(density.constant)
        counts = np.zeros((len(self.cuts) - 1, components))
        kept = nu is not None
        if nu is None:
            nu = np.empty((1, components, self.length), self.values.dtype)
        given = (0,) * components, kind, *density, center, nu, kept, counts
        sums = self.in_cuts(self.loops.sums, density.steep.shape, *given)
        total: np.ndarray = np.add.reduce(counts)
        return total, sums

    def in_cuts(self, loop: Any, shape: tuple[int, ...], *arrays: Any) -> np.ndarray:
        """Run a loop that sums up two arrays of a shape in each cut, and add these up, in their order."""
        cuts = len(self.cuts) - 1
        sums = np.zeros((cuts, 2, *shape))
        in_parts(lambda first, last: loop(self.values, *arrays, sums, self.cuts, first, last), cuts, self.size)
        total: np.ndarray = np.add.reduce(sums)
        return total

    def run(self, loop: Any, *arrays: Any) -> None:
        """Run a loop over all blocks."""
        in_parts(lambda first, last: loop(self.values, *arrays, first, last), self.blocks, self.size)


def rows_of_activation(x: Tensor) -> Rows:
    """Rows of ``(N, C, *)``; a copy if there are gaps."""
    in_planes = x.dim() > 2 and x.numel() > x.shape[0] * x.shape[1] and (x.shape[1] == 1 or not layout.lies_in_rows(x))
    return Rows(layout.planes(x) if in_planes else layout.rows(x).reshape(-1, x.shape[1]))
