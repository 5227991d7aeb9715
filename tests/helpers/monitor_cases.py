"""A monitored fit that several processes make together, or one alone."""

import os
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import network
from helpers.trainer_cases import loader, sgd
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from mn_lightning.callbacks import GMMRefitCallback, MixtureMonitor, NormSwapCallback, QueueResetCallback
from mn_lightning.models import ImageClassifier


def fit(rank: int, folder: Path, world_size: int) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if world_size > 1:
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        arguments = {"strategy": "ddp", "devices": world_size}
    torch.manual_seed(0)
    monitor = MixtureMonitor()
    swap = [
        NormSwapCallback("network.1", "mode", sync=True),
        NormSwapCallback("network.5", "mixture", sync=True, queue_rows_per_batch=None, queue_decay=1.0),
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[monitor, *swap, GMMRefitCallback(), QueueResetCallback()],
        **arguments,
    )
    data = loader(rank, world_size)
    trainer.fit(ImageClassifier(network(), optimizer=sgd), data, data)
    return {name: (history.steps, history.values) for name, history in monitor.histories.items()}
