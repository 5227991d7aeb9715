"""A run that is resumed in the middle of an epoch, whose optimizer has asked how long the training will be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, digits, network, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from mn_lightning.callbacks import QueueResetCallback
from mn_lightning.models import ImageClassifier

USED = 2


class Asks:
    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches == 2 * BATCHES
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Ours(Asks, ImageClassifier):
    pass


class Theirs(Asks, LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])


class Seen(Callback):
    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0].clone())


@pytest.mark.parametrize(
    ("make", "callbacks"), [(Ours, []), (Theirs, [QueueResetCallback()])], ids=["model", "callback"]
)
@pytest.mark.parametrize("step", [USED, BATCHES, BATCHES + USED])
def test_the_next_batch_is_the_next(tmp_path: Path, make: Any, callbacks: list[Callback], step: int) -> None:
    def run(saver: Callback, **arguments: Any) -> tuple[list[Tensor], Tensor]:
        torch.manual_seed(0)
        model, seen = make(network()), Seen()
        fit = trainer(tmp_path, [*callbacks, seen, saver], enable_checkpointing=True, limit_val_batches=0)
        fit.fit(model, digits(), **arguments)
        return seen.batches, nn.utils.parameters_to_vector(model.parameters())

    whole, weights = run(ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=1, save_top_k=-1))
    path = tmp_path / "steps" / f"step={step}.ckpt"
    rest, resumed = run(ModelCheckpoint(tmp_path / "other"), ckpt_path=path, weights_only=True)
    assert len(whole) == 2 * BATCHES
    assert len(rest) == len(whole) - step
    assert all(torch.equal(one, other) for one, other in zip(rest, whole[step:], strict=True))
    assert torch.equal(resumed, weights)
