"""Record what a run measures, row by row, in memory and in a CSV file."""

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mn_lightning.callbacks import FIDCallback
from mn_lightning.callbacks._trainer import training_steps
from mn_lightning.utils.files import write_atomically

Row = dict[str, float]


class RunRecorder(Checkpoint):
    """Write all metrics of a run, a row for each evaluation, with the steps and the seconds of training until then.

    Evaluations are validations, measurements of FIDCallback, and what the model logs in training at the end of an
    epoch. The clock stops during the first two, because only the cost of the training is compared. A refit of mixtures
    at the end of an epoch counts as training. Rows are kept in the checkpoint, so that a resumed run has each row once.
    The class is a checkpoint callback, because Lightning calls these after the model and all other callbacks: what they
    log at the end of an epoch is there by then.

    Steps are only the generator's if the module counts them as ``generator_steps``, as papers do.

    Args:
        path: the CSV file to write.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: list[Row] = []
        self._seconds = 0.0
        self._started: float | None = None
        self._from_validation: set[str] = set()
        self._before: set[str] = set()
        self._evaluations_before = 0.0
        self._distances: list[FIDCallback] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self._distances = [callback for callback in callbacks if isinstance(callback, FIDCallback)]
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Record what has been measured at this step."""
        step = training_steps(trainer)
        for callback in self._distances:
            if callback.evaluated_at == step:
                self._record(trainer, set(callback.values))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if self._started is not None:
            self._seconds += time.monotonic() - self._started
            self._started = None
        self._before = set(trainer.callback_metrics)
        self._evaluations_before = self._evaluation_seconds()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record, and let the clock go on."""
        if trainer.sanity_checking:
            return
        # A distance that was measured now does not belong to the validation, and the clock did not run meanwhile.
        distances = {name for callback in self._distances for name in callback.values}
        self._from_validation |= set(trainer.callback_metrics) - self._before - distances
        self._seconds += self._evaluation_seconds() - self._evaluations_before
        # Values that were logged in training are left out: the trainer still shows those of the epoch before.
        measured = (self._from_validation | distances) & set(trainer.callback_metrics)
        self._record(trainer, measured - self._outdated(trainer))
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the training epoch logged, in the same row as the metrics of a validation that has just ended."""
        metrics = set(trainer.callback_metrics)
        if not self.rows or self.rows[-1]["step"] != training_steps(trainer):
            metrics -= self._from_validation  # these are from an earlier step
        metrics -= self._outdated(trainer)
        if metrics:
            self._record(trainer, metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the last measurement, if something other than the last step has ended the training."""
        self.on_train_batch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded so far."""
        return {"rows": self.rows, "seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved."""
        self.rows = state_dict["rows"]
        self._seconds = state_dict["seconds"]

    def _elapsed(self) -> float:
        running = 0.0 if self._started is None else time.monotonic() - self._started
        return self._seconds + running - self._evaluation_seconds()

    def _evaluation_seconds(self) -> float:
        return sum(callback.seconds for callback in self._distances)

    def _outdated(self, trainer: Trainer) -> set[str]:
        """Return the names of distances that the trainer still shows but that were measured at an earlier step."""
        step = training_steps(trainer)
        return {name for callback in self._distances if callback.evaluated_at != step for name in callback.values}

    def _record(self, trainer: Trainer, metrics: set[str]) -> None:
        row: Row = {
            "epoch": trainer.current_epoch,
            "step": training_steps(trainer),
            "seconds": round(self._elapsed(), 3),
        }
        row |= {name: float(trainer.callback_metrics[name]) for name in sorted(metrics)}
        if self.rows and self.rows[-1]["step"] == row["step"]:
            row |= {name: self.rows[-1][name] for name in ("epoch", "seconds")}
            self.rows[-1] |= row
        else:
            self.rows.append(row)
        if trainer.is_global_zero:
            write_atomically(self.path, to_csv(self.rows))


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as the text of a CSV file, with the columns of all rows in the order in which they first appear."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(column for row in rows for column in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def from_csv(text: str) -> list[Row]:
    """Return the rows of such a text, each without its empty columns.

    Raises:
        ValueError: the text is not a recorder's, or incomplete.
    """
    if not text.endswith("\n"):
        raise ValueError("it ends in mid-line" if text else "it is empty")
    rows: list[Row] = []
    try:
        for row in csv.DictReader(io.StringIO(text), strict=True):
            if None in row or None in row.values():
                raise ValueError("a line has too few or too many values")
            rows.append({name: float(value) for name, value in row.items() if value})
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not all(math.isfinite(row.get(name, math.nan)) for row in rows for name in ("epoch", "step", "seconds")):
        raise ValueError("a line lacks epoch, step or seconds")
    return rows


def read_rows(path: Path) -> list[Row]:
    """Read the file of a recorder; return no rows if there is no file.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return from_csv(path.read_bytes().decode())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path} is damaged: {why}") from error
