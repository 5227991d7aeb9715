"""Fits of several processes that are resumed in the middle of an epoch."""

import os
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import classifier, digits, trainer, weights_of
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback, RandomStateCallback


class Noise(LightningModule):
    """Draws a random number in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.drawn: list[float] = []

    def training_step(self, batch: Any) -> Tensor:
        self.drawn.append(float(torch.rand(1)))
        return self.layer(batch[0].view(-1, 1)).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def draws(rank: int, folder: Path) -> list[list[float]]:
    """Numbers that were drawn in this process, whose seed is its rank: by a whole fit, and after each of its steps."""
    _join(rank)
    found = []
    for step in (None, 2, 3):
        model = Noise()
        torch.manual_seed(rank if step is None else 123)
        saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        run = trainer(
            folder,
            [RandomStateCallback(), *([saver] if step is None else [])],
            strategy="ddp",
            devices=2,
            enable_checkpointing=step is None,
            limit_val_batches=1,
        )
        run.fit(model, digits(), ckpt_path=None if step is None else folder / f"step={step}.ckpt")
        found.append(model.drawn)
    return found


def _join(rank: int) -> None:
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def fits(rank: int, folder: Path, norm: str, steps: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """Weights after an uninterrupted fit with Lightning's own sampler, and after one from each of its ``steps``."""
    _join(rank)
    found = []
    for checkpoint in (None, *(folder / f"step={step}.ckpt" for step in steps)):
        model = classifier()
        torch.manual_seed(len(found))
        saver = ModelCheckpoint(folder if checkpoint is None else None, "{step}", every_n_train_steps=1, save_top_k=-1)
        callbacks = [NormSwapCallback("all", norm, sync=True), GMMRefitCallback(), QueueResetCallback()]
        more = [saver] if checkpoint is None else []
        run = trainer(
            folder, [*callbacks, *more], max_epochs=3, strategy="ddp", devices=2, enable_checkpointing=bool(more)
        )
        run.fit(model, digits(), ckpt_path=checkpoint)
        assert run.global_step == 9  # of 3 batches of 256 of each process' 629 images
        found.append(weights_of(model))
    return found
