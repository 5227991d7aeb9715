"""Keep the weights of a run's best evaluation, and the images that they generate."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torchvision.utils import make_grid, save_image

from mn_lightning.callbacks import FIDCallback
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.compare.study.study import Mode

NUM_SAMPLES = 64
CHECKPOINT = Path("checkpoints", "best.ckpt")
SAMPLES = Path("best_samples.png")
"""Where these files are in a run's folder."""


class BestKeeper(Checkpoint):
    """Keep the weights with the best value of a metric, at whatever step it was measured.

    They are written to ``checkpoints/best.ckpt``, without the optimizers. If FIDCallback measures a generator, 64 of
    the measured images are written to ``best_samples.png``.

    Args:
        recorder: has the values; it comes before this callback in the trainer's list.
        folder: of the run.
        metric: name of the metric.
        mode: whether more or less of it is better.
        weights: whether to write the weights too, and not only the images.
    """

    def __init__(self, recorder: RunRecorder, folder: Path, metric: str, mode: Mode, weights: bool = True) -> None:
        super().__init__()
        self.recorder = recorder
        self.folder = folder
        self.metric = metric
        self.weights = weights
        self.sign = 1 if mode == "max" else -1
        self._best = -math.inf
        self._seen = -1.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Look at the values of this step."""
        self._look(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the values of the validation."""
        if not trainer.sanity_checking:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the values of the epoch's end."""
        self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the values of the training's end."""
        self._look(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The best value."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved."""
        self._best = state_dict["best"]

    def _look(self, trainer: Trainer, module: LightningModule) -> None:
        row = self.recorder.rows[-1] if self.recorder.rows else {}
        if self.metric not in row or row["step"] == self._seen:
            return
        self._seen = row["step"]
        value = self.sign * row[self.metric]
        # Rows come on all ranks at the same time, but their values differ if a metric is not synchronized.
        if not trainer.strategy.broadcast(math.isfinite(value) and value > self._best):
            return
        self._best = value
        if self.weights:
            trainer.save_checkpoint(self.folder / CHECKPOINT, weights_only=True)
        self._keep_samples(trainer, module)

    def _keep_samples(self, trainer: Trainer, module: LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, FIDCallback):
                images = callback.examples(trainer, module, NUM_SAMPLES)
                if trainer.is_global_zero:
                    save_image(make_grid(images.cpu() / 255, padding=1), self.folder / SAMPLES)
                return
