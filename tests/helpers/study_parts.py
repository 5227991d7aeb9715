"""What the studies of the tests name by class path."""

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from helpers.tiny import network
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mn_lightning import swap_norms


class TinyNetwork(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*network())


class MixtureNetwork(TinyNetwork):
    """Has swapped its norms itself."""

    def __init__(self) -> None:
        super().__init__()
        swap_norms(self, norm="mixture", n_components=4, scale="unit")


class WideNetwork(nn.Sequential):
    """Has a megabyte of weights."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 3600), nn.ReLU(), nn.Linear(3600, 10))


class Witness(Callback):
    """Writes down the weights that a run starts with, and its batches."""

    seen: ClassVar[dict[str, list[torch.Tensor]]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        Witness.seen[name] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Witness.seen[f"{self.name} weights"] = [
            pl_module.state_dict()[f"network.{i}.weight"].clone() for i in (0, 1, 4, 5, 7)
        ]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        Witness.seen[self.name].append(batch[0].clone())


class Stumble(Callback):
    """Raises ``error`` in the middle of the second epoch, as often as ``times`` says."""

    times: ClassVar[int] = 0
    error: ClassVar[BaseException] = RuntimeError("it broke\nin two lines")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2 and Stumble.times > 0:
            Stumble.times -= 1
            raise Stumble.error


class WaitAfterFirstEpoch(Callback):
    """Gives a test time to kill the process: waits for the signal, if the environment does not forbid it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1 and "TEST_NO_WAIT" not in os.environ:
            deadline = time.monotonic() + 120
            while not trainer._signal_connector.received_sigterm and time.monotonic() < deadline:
                time.sleep(0.05)


class WaitForFile(Callback):
    """Waits after the first epoch until a file called ``go`` is in the folder, or for the signal to end."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            deadline = time.monotonic() + 600
            while not (Path("go").exists() or trainer._signal_connector.received_sigterm):
                assert time.monotonic() < deadline
                time.sleep(0.05)


class KillOnce(Callback):
    """Kills its own process in the second epoch, the first time."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class FailInTraining(Callback):
    """Fails in every training that is no trial."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise RuntimeError("it broke")


class LogInfinity(Callback):
    """Logs a value that is not finite."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("odd", float("inf"))
