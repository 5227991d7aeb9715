"""A fit in two processes whose statistics are taken anew from batches of each."""

import os
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import classifier, trainer
from helpers.trainer_cases import loader
from torch import Tensor, nn

from mn_lightning.callbacks import UpdateNormsCallback


def fit(rank: int, folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Return the network's state, and the mean of the first norm's input over this process' last batches."""
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    model, seen = classifier(), []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().mean((0, 2, 3)))

    update = UpdateNormsCallback(batches=2)
    run = trainer(
        folder, [update], strategy="ddp", devices=2, use_distributed_sampler=False, max_epochs=1, limit_val_batches=0
    )
    model.network[1].register_forward_pre_hook(look)
    run.fit(model, loader(rank, 2))
    assert update.updates == 1
    return dict(model.network.state_dict()), torch.stack(seen[-2:]).mean(0)
