"""A training of DCGAN that two processes make together."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import mixture_callbacks, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.callbacks import SampleGridCallback
from mn_lightning.models import DCGAN

LR, STEPS, PROCESSES, N = 0.05, 2, 2, 4


def gan() -> DCGAN:
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=LR)
    return DCGAN(1, 32, 5, 2, generator_optimizer=sgd, discriminator_optimizer=sgd, max_generator_steps=STEPS)


def real_images(rank: int) -> Tensor:
    """The batches of a process, ``(STEPS, N, 1, 32, 32)``."""
    return torch.rand(STEPS, N, 1, 32, 32, generator=torch.Generator().manual_seed(10 + rank)) * 2 - 1


class Seed(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(7)  # the same in all processes, as seed_everything does


def train(rank: int, folder: Path) -> dict[str, Any]:
    """The weights after the training, in this process."""
    # Lightning takes part in a group of processes that something else has started, as torchrun does.
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    model = gan()
    grids = SampleGridCallback(every_n_steps=1, num_samples=4)
    callbacks = [Seed(), *mixture_callbacks(["deconv1", "deconv2"]), grids]
    options = {"strategy": "ddp", "devices": PROCESSES, "use_distributed_sampler": False, "max_epochs": -1}
    data = TensorDataset(real_images(rank).flatten(0, 1))
    trainer(folder, callbacks, **options).fit(model, DataLoader(data, batch_size=N))
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
