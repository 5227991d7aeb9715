"""Fitting to some of the rows."""

from torch import Tensor

from mn_lightning.utils.random import Stream, stratified


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
