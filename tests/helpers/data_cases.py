"""Trainings that note which images they were given, alone and in several processes."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn

from mn_lightning.data import DigitsDataModule

Seen = dict[int, list[Tensor]]


class Recorder(BoringModel):
    """Notes the batches of images it is given, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.seen: Seen = {}

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch[0])
        return self.layer(torch.zeros(1, 1)).sum()


def digits_on_device(root: Path) -> LightningDataModule:
    return DigitsDataModule(batch_size=300, image_size=8, on_device=True)


def fit(data: LightningDataModule, max_epochs: int, checkpoint: Path | None = None, **arguments: Any) -> Seen:
    model = Recorder()
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **{"enable_checkpointing": "callbacks" in arguments, **arguments},
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.seen


def each_step(folder: Path) -> ModelCheckpoint:
    """Saves ``folder/step-STEP.ckpt`` after each."""
    callback = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    callback.CHECKPOINT_EQUALS_CHAR = "-"
    return callback


def fit_in_process(rank: int, folder: Path) -> dict[str, Seen]:
    """Whole, and from the middle of the second epoch on."""
    # Lightning takes part in a group of processes that something else has started, as torchrun does.
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    options: dict[str, Any] = {"strategy": "ddp", "devices": 2}
    whole = fit(digits_on_device(folder), 2, callbacks=[each_step(folder)], **options)
    middle = folder / f"step-{len(whole[0]) + 1}.ckpt"
    return {"whole": whole, "resumed": fit(digits_on_device(folder), 2, middle, **options)}
