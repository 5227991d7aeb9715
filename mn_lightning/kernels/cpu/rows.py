"""Rows of an activation as they lie in memory, cut into blocks, and the loops for that layout."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels.cpu.threads import cuts_of, in_parts

PLANE_BLOCK, ROW_BLOCK = 2**17, 2**15
"""About how many numbers are in a block: it stays in the second-level cache."""

LONGEST_PLANE_BLOCK, LONGEST_ROW_BLOCK = 1024, 256
"""How many rows are in a block at most: what is kept for each stays in the first-level cache."""


class Density(NamedTuple):
    """log λ_k p_k(x) = constant_k + Σ_d precision_kd (x_d - mean_kd)²."""

    constant: np.ndarray
    mean: np.ndarray
    precision: np.ndarray


class Rows:
    """Rows ``(1, B, M, D)`` in memory.

    Args:
        x: views of planes and dense rows are taken as they are, anything else is copied.
    """

    def __init__(self, x: Tensor) -> None:
        from mn_lightning.kernels.cpu.loops import mixture, mixture_planes, mixture_rows

        _, samples, pixels, features = x.shape
        self.features, self.count = features, samples * pixels
        self.shared = mixture
        self.in_planes = x.mT.is_contiguous() and (features == 1 or not x.is_contiguous())
        self.loops: Any = mixture_planes if self.in_planes else mixture_rows
        self.size = x.numel()
        if self.in_planes:
            longest = min(LONGEST_PLANE_BLOCK, max(64, PLANE_BLOCK // features))
            each = -(-pixels // longest)
            self.length, self.blocks = -(-pixels // each), samples * each
        else:
            self.length = min(self.count, LONGEST_ROW_BLOCK, max(16, ROW_BLOCK // features // 4 * 4))
            self.blocks = -(-self.count // self.length)
        self.values = self.array(x)

    def array(self, x: Tensor) -> np.ndarray:
        """Planes ``(B, D, M)`` or rows ``(B M, D)``."""
        x = x.detach()
        if self.in_planes:
            return x[0].mT.contiguous().numpy()
        return x.contiguous().view(-1, x.shape[3]).numpy()

    def empty(self, x: Tensor) -> tuple[Tensor, np.ndarray]:
        """A tensor like ``x`` to write to, and its array."""
        # No view: what follows may write into it in place.
        dense = self.in_planes or x.is_contiguous()
        result = (
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype) if dense else torch.empty(x.shape, dtype=x.dtype)
        )
        return result, self.array(result)

    def empty_posteriors(self, components: int) -> Tensor:
        """Where ν goes, ``(blocks, K, length)``."""
        return torch.empty(self.blocks, components, self.length, dtype=torch.from_numpy(self.values[:0]).dtype)

    def density(self, weights: np.ndarray, means: np.ndarray, variances: np.ndarray, reg_covar: float) -> Density:
        """Of weights ``(K,)``, means and variances ``(K, D)``."""
        density = Density(np.empty_like(weights), means, np.empty_like(means))
        self.shared.densities(weights, means, variances, reg_covar, density.constant, density.precision)
        return density

    def nearest(self, centers: np.ndarray) -> Density:
        """What is largest for the nearest of the centers ``(K, D)``."""
        return Density(np.zeros(len(centers), centers.dtype), centers, np.full_like(centers, -1))

    def sums(
        self, kind: int, density: Density, center: np.ndarray, nu: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the rows once.

        Args:
            kind: where posteriors come from, as the loop has it.
            density: what they are found with.
            center: what sums are taken around, ``(K, D)``.
            nu: where they are, or go to.

        Returns:
            Σν, ``(K,)``, and Σν(x - center) and Σν(x - center)², ``(2, K, D)``, in float64.
        """
        components, features = center.shape
        cuts = self._cuts()
        counts = np.zeros((len(cuts) - 1, components))
        sums = np.zeros((len(cuts) - 1, 2, components, features))
        kept = nu is not None
        if nu is None:
            nu = np.empty((1, components, self.length), self.values.dtype)

        def part(first: int, last: int) -> None:
            self.loops.sums(self.values, kind, *density, center, nu, kept, counts, sums, cuts, first, last)

        in_parts(part, len(cuts) - 1, self.size)
        return counts.sum(0), sums.sum(0)

    def gradient_sums(self, *arrays: Any) -> np.ndarray:
        """Σ (x - center_k) g and Σ g over the rows with g = ν_k factor_k dy act', ``(2, K, D)``, in float64."""
        cuts = self._cuts()
        sums = np.zeros((len(cuts) - 1, 2, *arrays[2].shape))
        in_parts(
            lambda first, last: self.loops.gradient_sums(self.values, *arrays, sums, cuts, first, last),
            len(cuts) - 1,
            self.size,
        )
        total: np.ndarray = sums.sum(0)
        return total

    def run(self, loop: Any, *arrays: Any) -> None:
        """Run a loop over all blocks."""
        in_parts(lambda first, last: loop(self.values, *arrays, first, last), self.blocks, self.size)

    def _cuts(self) -> np.ndarray:
        """At which block each of the parts starts that have sums of their own."""
        count = cuts_of(self.size, self.blocks)
        return np.arange(count + 1) * self.blocks // count
