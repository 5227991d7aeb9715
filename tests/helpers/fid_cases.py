"""A training of a generator that several processes make together, with several FIDCallbacks."""

import os
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import trainer
from helpers.tiny_generator import Features, Generator, loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor

from mn_lightning.callbacks import FIDCallback
from mn_lightning.fid.evaluation import Evaluation
from mn_lightning.fid.extraction import Generated


class Model(Generator):
    """The weights stay what they are; the buffers are those of each process."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.network[1].momentum = 0.0
        self.fails = fails
        self.register_buffer("offset", torch.zeros(()))

    def sample(self, n: int) -> Tensor:
        if self.fails and self.global_rank == 1 and self.global_step > 1:
            raise ValueError("only here")
        return super().sample(n) * 0.5 + self.offset

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Offset(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.offset.fill_(0.1 + 0.2 * pl_module.global_rank)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last = float(pl_module.offset)


def measure(rank: int, folder: Path, devices: int, fails: bool = False) -> dict[str, Any] | str:
    """What was measured, and what became of the buffers; the error's text if there was one."""
    # Lightning takes part in a group of processes that something else has started, as torchrun does.
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    counts: dict[str, int] = {}
    compute = Evaluation._compute

    def counted(evaluation: Evaluation, generated: Generated) -> dict[str, float]:
        counts[evaluation.names["fid"]] = int(generated.sums.count)
        return compute(evaluation, generated)

    Evaluation._compute = counted  # type: ignore[method-assign]  # in this process, which is for this alone

    def measured(name: str, **arguments: Any) -> FIDCallback:
        features = Features()
        features.name = name
        options = {"num_samples": 50, "batch_size": 8, "every_n_steps": 2, "cache_dir": str(folder / f"cache{devices}")}
        return FIDCallback(feature_extractor=features, **{**options, **arguments})

    offset = Offset()
    measures = [
        measured("plain", metrics=["fid", "kid"], log_floor=True),
        measured("train", train_mode=True),
        measured("few", num_samples=7),
        measured("uneven", num_samples=37, batch_size=5),
    ]
    others = [
        EarlyStopping("fd_plain", patience=100),
        ModelCheckpoint(folder / f"checkpoints{devices}", monitor="fd_plain", every_n_train_steps=2),
    ]
    options = {"strategy": "ddp", "devices": devices, "enable_checkpointing": True, "max_steps": 4, "max_epochs": -1}
    run = trainer(folder, [offset, *measures, *others], **options)
    torch.manual_seed(run.global_rank)  # the callback must not depend on it
    try:
        run.fit(Model(fails), loader(batch_size=2))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return {
        "metrics": {name: float(value) for name, value in run.callback_metrics.items() if name != "loss"},
        "best": [callback.best for callback in measures],
        "counts": counts,
        "offset": offset.last,
    }
