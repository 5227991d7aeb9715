"""Report the progress of a run while it is trained."""

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mn_lightning.callbacks._trainer import training_steps
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.compare.runs.run import Progress, Run

_INTERVAL = 1.0


class ProgressWriter(Callback):
    """Write a run's progress once a second, and at the end.

    Args:
        run: the run that is trained.
        recorder: has the score.
    """

    def __init__(self, run: Run, recorder: RunRecorder) -> None:
        self.run = run
        self.recorder = recorder
        self._started = (0.0, 0.0)
        self._written = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the starting point of this process: the estimate for a resumed run must not include earlier work."""
        self._started = (time.monotonic(), _share_done(trainer, pl_module, 0))
        self._write(trainer, pl_module, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if a second has passed since the last time."""
        if time.monotonic() - self._written >= _INTERVAL:
            self._write(trainer, pl_module, batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write at the next occasion, with the new score."""
        self._written = -math.inf

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last score."""
        self._write(trainer, pl_module, 0)

    def _write(self, trainer: Trainer, module: LightningModule, batches: int) -> None:
        self._written = time.monotonic()
        if not trainer.is_global_zero:
            return
        done = _share_done(trainer, module, batches)
        since, before = self._started
        left = (self._written - since) * (1 - done) / (done - before) if done > before else None
        metric = self.run.study.metric
        scores = [row[metric] for row in self.recorder.rows if metric in row]
        self.run.set_progress(Progress(done, scores[-1] if scores else None, left))


def _share_done(trainer: Trainer, module: LightningModule, batches: int) -> float:
    """Return the share of the training that is done, in epochs or in steps, whichever end it first."""
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
