"""Where a fit starts from, by loops."""

import numpy as np
import torch
from torch import Tensor

from mn_lightning.kernels import kmeans as reference
from mn_lightning.kernels.cpu.rows import Rows
from mn_lightning.kernels.types import SeedDraws
from mn_lightning.utils.distributed import ALONE, Processes


def seed_centers(x: Tensor, n_components: int, draws: SeedDraws, processes: Processes = ALONE) -> tuple[Tensor, Tensor]:
    """Choose the centres that a fit starts from, and a point that rows are taken relative to."""
    if processes.size > 1:
        return reference.seed_centers(x, n_components, draws, processes)
    from mn_lightning.kernels.cpu.loops import kmeans as loops

    rows = Rows(x)
    count = x.shape[1] * x.shape[2]
    taken = np.empty((min(count, reference.SEED_ROWS), x.shape[3]), rows.values.dtype)
    which = draws.rows.numpy() if count > reference.SEED_ROWS else np.empty(0, np.float32)
    (loops.take_planes if rows.in_planes else loops.take_rows)(rows.values, which, taken)
    origin = np.empty(x.shape[3], taken.dtype)
    loops.center(taken, origin)
    centers = np.empty((n_components, x.shape[3]), taken.dtype)
    candidates = (len(draws.candidates) - 1) // max(1, n_components - 1)
    loops.seed(taken, draws.candidates.numpy(), candidates, centers)
    return torch.from_numpy(centers)[None], torch.from_numpy(origin)[None, None]
