"""Fits of several processes that are resumed in the middle of an epoch."""

import os
from pathlib import Path

import torch
from helpers.tiny import classifier, digits, trainer, weights_of
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback


def fits(rank: int, folder: Path, norm: str, steps: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """Weights after an uninterrupted fit with Lightning's own sampler, and after one from each of its ``steps``."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
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
