"""Estimate the size of a run's checkpoints before there are any."""

from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from mn_lightning.compare.study.folder import Keep


class Sizes(NamedTuple):
    """Bytes of a run's checkpoints, without what swapped norms add.

    Attributes:
        best: of the checkpoint with the best weights, without optimizers.
        last: of the last checkpoint: weights and optimizers.
    """

    best: int
    last: int

    def kept(self, keep: Keep) -> int:
        """Bytes that remain when the run has finished."""
        return {"best": self.best, "last": self.last, "both": self.best + self.last, "none": 0}[keep]


def checkpoint_sizes(model: LightningModule) -> Sizes:
    """Return the sizes of the checkpoints of a model's training.

    Args:
        model: on the device ``meta``. Its optimizers make one step, so that they have their states.
    """
    weights = sum(value.nbytes for value in model.state_dict().values())
    made = model.configure_optimizers()
    return Sizes(weights, weights + sum(map(_state_bytes, _optimizers(made))))


def _optimizers(made: object) -> list[Optimizer]:
    """Find the optimizers in any form that Lightning allows ``configure_optimizers`` to return."""
    if isinstance(made, Optimizer):
        return [made]
    if isinstance(made, dict):
        return _optimizers(made.get("optimizer"))
    if isinstance(made, (list, tuple)):
        return [optimizer for part in made for optimizer in _optimizers(part)]
    return []


def _state_bytes(optimizer: Optimizer) -> int:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
