"""The fit of a mixture: one pass over the rows for each iteration, and nothing of torch's between them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels.cpu.rows import Rows
from mn_lightning.kernels.kmeans import SEED_ROWS, n_candidates, seed_centers
from mn_lightning.kernels.types import Mixture
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.random import Stream

as_torch = np.errstate(all="ignore")
"""What is not finite passes through without a warning, as in torch."""


@as_torch
def fit(
    x: Tensor,
    n_components: int,
    n_lloyd: int,
    n_em: int,
    step: Tensor,
    reg_covar: float,
    processes: Processes = ALONE,
) -> Mixture:
    """Fit by greedy k-means++, Lloyd iterations and EM to rows ``(1, B, M, D)``."""
    rows = Rows.of(x)
    if processes.size == 1:
        return fit_rows(rows, n_components, n_lloyd, n_em, int(step), reg_covar).mixture()
    fitted = Fitted(n_components, rows, None, processes)
    centers, origin = seed_centers(x, n_components, step, processes)
    fitted.origin[:] = origin[0, 0].numpy()
    fitted.means[:] = centers[0].numpy() + fitted.origin
    fitted.lloyd(rows, n_lloyd)
    fitted.em(rows, n_em, reg_covar)
    return fitted.mixture()


def fit_rows(rows: Rows, n_components: int, n_lloyd: int, n_em: int, step: int, reg_covar: float) -> "Fitted":
    """:func:`fit` for rows as arrays."""
    fitted = Fitted(n_components, rows)
    fitted.seed(rows, step)
    fitted.lloyd(rows, n_lloyd)
    fitted.em(rows, n_em, reg_covar)
    return fitted


@as_torch
def lloyd(
    x: Tensor, centers: Tensor, n_iter: int, origin: Tensor | None = None, processes: Processes = ALONE
) -> Mixture:
    """Run Lloyd iterations from centres relative to an origin; the means of the result are, too."""
    rows = Rows.of(x)
    fitted = Fitted(centers.shape[1], rows, origin, processes)
    fitted.means[:] = centers[0].numpy() + fitted.origin
    fitted.lloyd(rows, n_iter)
    return fitted.mixture(origin)


@as_torch
def em(
    x: Tensor,
    mixture: Mixture,
    n_iter: int,
    reg_covar: float,
    origin: Tensor | None = None,
    processes: Processes = ALONE,
) -> Mixture:
    """Run iterations of EM from a mixture relative to an origin; the means of the result are, too."""
    rows = Rows.of(x)
    fitted = Fitted(mixture.means.shape[1], rows, origin, processes)
    for own, given in zip((fitted.weights, fitted.means, fitted.variances), mixture, strict=True):
        own[:] = given[0].numpy()
    fitted.means += fitted.origin
    fitted.em(rows, n_iter, reg_covar)
    return fitted.mixture(origin)


class Fitted:
    """A mixture that is fitted.

    Args:
        n_components: K.
        rows: that it is fitted to.
        origin: that sums are taken around, ``(1, 1, D)``; 0 by default.
        processes: those that hold the rows between them.
    """

    def __init__(
        self, n_components: int, rows: Rows, origin: Tensor | None = None, processes: Processes = ALONE
    ) -> None:
        from mn_lightning.kernels.cpu.loops import mixture

        loops: Any = mixture
        self.loops, self.processes, dtype = loops, processes, rows.values.dtype
        self.origin = np.zeros(rows.features, dtype)
        if origin is not None:
            self.origin[:] = origin[0, 0].numpy()
        self.weights = np.empty(n_components, dtype)
        self.means, self.variances = (np.empty((n_components, rows.features), dtype) for _ in range(2))

    def lloyd(self, rows: Rows, n_iter: int) -> None:
        """Assign rows to the nearest mean, and take moments of each component's."""
        for _ in range(n_iter):
            self._maximize(rows, rows.shared.NEAREST, rows.nearest(self.means))

    def em(self, rows: Rows, n_iter: int, reg_covar: float) -> None:
        """Find posteriors, and take moments under them."""
        for _ in range(n_iter):
            density = rows.density(self.weights, self.means, self.variances, reg_covar)
            self._maximize(rows, rows.shared.POSTERIOR, density)

    def _maximize(self, rows: Rows, kind: int, density: Any) -> None:
        counts, sums = rows.sums(kind, density, self.origin)
        if self.processes.size > 1:
            counts, sums = self._of_all(counts, sums)
        self.loops.maximize(counts, sums, self.origin, self.weights, self.means, self.variances)

    def _of_all(self, counts: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum over processes, in the message of the reference, which processes without rows send."""
        given = (counts, np.concatenate(list(sums), axis=-1))
        total, both = self.processes.sum(
            *(torch.from_numpy(values.astype(self.means.dtype)).unsqueeze(0) for values in given)
        )
        first, second = both.double().chunk(2, dim=-1)
        return total[0].double().numpy(), torch.stack([first[0], second[0]]).numpy()

    def seed(self, rows: Rows, step: int) -> None:
        """Choose the means that the fit starts from, and its origin."""
        from mn_lightning.kernels.cpu.loops import kmeans

        loops: Any = kmeans
        take = loops.take_planes if rows.in_planes else loops.take_rows
        taken = np.empty((min(rows.count, SEED_ROWS), rows.features), rows.values.dtype)
        take(rows.values, step, int(Stream.SEED_ROWS), taken)
        loops.start(taken, step, int(Stream.KMEANS), n_candidates(len(self.means)), self.origin, self.means)

    def mixture(self, origin: Tensor | None = None) -> Mixture:
        """Return the mixture, its means relative to ``origin``."""
        means = self.means if origin is None else self.means - self.origin
        return Mixture(*(torch.from_numpy(values).unsqueeze(0) for values in (self.weights, means, self.variances)))
