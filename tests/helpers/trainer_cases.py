"""Fits that several processes make together, and one alone."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers.tiny import network
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD
from torch.utils.data import DataLoader, Subset, TensorDataset

from mn_lightning import MixtureNorm, ModeNorm
from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.models import ImageClassifier

ROWS, BATCH = 96, 24


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ROWS) % 10
    return TensorDataset(torch.randn(ROWS, 1, 8, 8, generator=generator) + labels[:, None, None, None] / 3, labels)


def loader(rank: int, world_size: int) -> DataLoader[Any]:
    """This process' equal share of every batch of BATCH images."""
    share = BATCH // world_size
    mine = [start + rank * share + i for start in range(0, ROWS, BATCH) for i in range(share)]
    return DataLoader(Subset(images(), mine), batch_size=share)


def parts(rank: int, shares: list[tuple[int, ...]]) -> DataLoader[Any]:
    """This process' part of every batch of BATCH images, of any size: ``shares`` are those of each batch."""
    batches = zip(*(tensor.split(BATCH) for tensor in images().tensors), strict=True)
    mine = [tuple(tensor.split(share)[rank] for tensor in batch) for batch, share in zip(batches, shares, strict=True)]
    return DataLoader(mine, batch_size=None)


class SumOfRows(ImageClassifier):
    """Every row has the same weight in the loss, however many others are in its process' part of the batch."""

    def training_step(self, batch: Any) -> torch.Tensor:
        total = torch.nn.functional.cross_entropy(self(batch[0]), batch[1], reduction="sum")
        return total / BATCH * self.trainer.world_size  # ddp averages over the processes


class Watch(Callback):
    """Keeps what the queues held after the last training step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.queues = {
            name: value.clone() for name, value in pl_module.named_buffers() if name.endswith(("rows", "pushes"))
        }


def sgd(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.05, momentum=0.9)


def fit(
    rank: int,
    folder: Path,
    world_size: int = 1,
    norm: str = "mixture",
    swap: dict[str, Any] | None = None,
    epochs: int = 2,
    resume: str | None = None,
    model_class: type[ImageClassifier] = ImageClassifier,
    torchrun: bool = False,
    shares: list[tuple[int, ...]] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    if torchrun:
        arguments = {"strategy": "ddp", "devices": 1, **arguments}
    elif world_size > 1:
        # Lightning takes part in a group of processes that something else has started, as torchrun does.
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        arguments = {"strategy": "ddp", **arguments, "devices": world_size}
    # It is the sums over processes that are compared, and not what components of few rows make of rounding errors.
    arguments = {"precision": "64-true", **arguments}
    torch.manual_seed(0)
    model = model_class(network(), optimizer=sgd)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            # A row that is a component by itself is normalized to the bias. Were that 0, the ReLU behind it would let
            # a gradient through or not, as rounding has it.
            nn.init.uniform_(module.bias, 0.05, 0.2)
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            NormSwapCallback("all", norm, **(swap or {})),
            GMMRefitCallback(),
            QueueResetCallback(),
            watch,
            ModelCheckpoint(folder, filename="last", enable_version_counter=False),
        ],
        **arguments,
    )
    data = loader(rank, world_size) if shares is None else parts(rank, shares)
    trainer.fit(model, data, data, ckpt_path=resume and str(folder / resume), weights_only=False)
    return {
        "state": {name: value.clone() for name, value in model.network.state_dict().items()},
        "sync": [module.sync for module in model.modules() if isinstance(module, (MixtureNorm, ModeNorm))],
        "queues": watch.queues,
        "steps": trainer.global_step,
    }


def fit_many(rank: int, world_size: int, folder: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for i, case in enumerate(cases):
        found.append(fit(rank, folder / str(i), world_size, **case))
        dist.barrier()
    return found


def error_of_a_fit(rank: int, folder: Path) -> str:
    """A fit in which rank 1 has fewer batches than rank 0."""
    try:
        fit(rank, folder, 2, limit_train_batches=4 - rank)
    except ValueError as error:
        return str(error)
    return ""
