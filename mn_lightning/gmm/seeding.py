"""The random choices of a fit."""

from torch import Tensor

from mn_lightning.kernels.kmeans import SEED_ROWS, n_seeding_draws
from mn_lightning.kernels.types import SeedDraws
from mn_lightning.utils.random import Stream, stratified, uniform


def seed_draws(step: Tensor, n_components: int) -> SeedDraws:
    """Draw what k-means++ needs; ``step`` is an int64 tensor with one element, of which the draws are a function.

    Examples:
        >>> import torch
        >>> [len(numbers) for numbers in seed_draws(torch.tensor(0), n_components=3)]
        [1024, 7]
    """
    return SeedDraws(
        uniform(step, SEED_ROWS, Stream.SEED_ROWS), uniform(step, n_seeding_draws(n_components), Stream.KMEANS)
    )


def subsample(x: Tensor, count: int, step: Tensor) -> Tensor:
    """``count`` of the rows, at random without replacement: ``(G, 1, count, D)``, or all if there are less.

    ``step`` is an int64 tensor with one element, of which the choice is a function.

    Examples:
        >>> import torch
        >>> subsample(torch.zeros(1, 4, 50, 3), 20, torch.tensor(0)).shape
        torch.Size([1, 1, 20, 3])
    """
    rows = x.shape[2]
    if x.shape[1] * rows <= count:
        return x
    index = stratified(step, count, x.shape[1] * rows, Stream.FIT_ROWS)
    return x[:, index // rows, index % rows].unsqueeze(1)
