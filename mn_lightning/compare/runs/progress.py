"""How far a run is: written by its process, read by the command."""

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer

from mn_lightning.callbacks._trainer import training_steps
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.utils.files import write_atomically

_INTERVAL = 1.0


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        done: share of the training, 0 to 1.
        score: the last value of the study's metric; None before the first.
        left: estimated seconds to the end; None before there is an estimate.
    """

    done: float
    score: float | None
    left: float | None


class ProgressWriter(Callback):
    """Write a run's progress once a second.

    Args:
        path: of the file.
        recorder: knows the score.
        metric: its name.
    """

    def __init__(self, path: Path, recorder: RunRecorder, metric: str) -> None:
        self.path = path
        self.recorder = recorder
        self.metric = metric
        self._started = (0.0, 0.0)
        self._written = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where this process begins: a resumed run has not to be estimated from what was done before."""
        self._started = (time.monotonic(), _share_done(trainer, pl_module, 0))
        self._write(trainer, pl_module, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if the last time is a second ago."""
        if time.monotonic() - self._written >= _INTERVAL:
            self._write(trainer, pl_module, batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the next time, with the new score."""
        self._written = -math.inf

    def _write(self, trainer: Trainer, module: LightningModule, batches: int) -> None:
        self._written = time.monotonic()
        if not trainer.is_global_zero:
            return
        done = _share_done(trainer, module, batches)
        since, before = self._started
        left = (self._written - since) * (1 - done) / (done - before) if done > before else None
        scores = [row[self.metric] for row in self.recorder.rows if self.metric in row]
        progress = Progress(done, scores[-1] if scores else None, left)
        write_atomically(self.path, json.dumps(progress._asdict()))


def read_progress(path: Path) -> Progress | None:
    """Return what was written last; None if nothing was."""
    return Progress(**json.loads(path.read_text())) if path.exists() else None


def _share_done(trainer: Trainer, module: LightningModule, batches: int) -> float:
    """Return the share of the training that is done: of the epochs or the steps, whichever end it first."""
    shares = [0.0]
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        in_epoch = float(trainer.num_training_batches)
        epochs = trainer.current_epoch + (batches / in_epoch if 0 < in_epoch < math.inf else 0.0)
        shares.append(epochs / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    steps: int | None = getattr(module, "max_generator_steps", None)
    if steps:
        shares.append(training_steps(trainer) / steps)
    return min(1.0, max(shares))
