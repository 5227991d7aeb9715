"""One run of a study: its folder, what has been recorded there, and how it ended."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from mn_lightning.compare.runs.best import CHECKPOINT
from mn_lightning.compare.runs.recorder import Row, from_csv
from mn_lightning.compare.study.folder import Keep, StudyFolder
from mn_lightning.compare.study.study import Study
from mn_lightning.utils.files import write_atomically

Status = Literal["finished", "failed"]


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        status: finished or failed.
        error: the last line of the error; empty for a run that finished.
        seconds: what it took. Of a process that was interrupted, the training up to its last evaluation counts.
    """

    status: Status
    error: str
    seconds: float


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


class BusyError(RuntimeError):
    """Another process trains the run."""


@dataclass(frozen=True)
class Run:
    """The run of a variant with a seed, in its folder inside the study's."""

    study: Study
    variant: str
    seed: int
    root: Path

    @property
    def label(self) -> str:
        """The words for the run in a message."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def key(self) -> list[str]:
        """The arguments that name the run to ``python -m mn_lightning.compare.runs``."""
        return [self.variant, str(self.seed)]

    @property
    def folder(self) -> Path:
        """Where everything of the run is."""
        return self.root / "runs" / self.variant / f"seed-{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The command line of ``mn-lightning``."""
        paths = {run.variant: run.checkpoint_path.absolute() for run in preparations(self.study, self.root)}
        return self.study.arguments(self.variant, self.seed, paths)

    @property
    def metrics_path(self) -> Path:
        """The CSV file of :class:`~mn_lightning.compare.runs.recorder.RunRecorder`."""
        return self.folder / "metrics.csv"

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint of the last whole epoch."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint of :class:`~mn_lightning.compare.runs.best.BestKeeper`."""
        return self.folder / CHECKPOINT

    def kept(self, keep: Keep) -> list[Path]:
        """Return the checkpoints that stay when the run has finished.

        The last one of a variant whose layers the report draws is among them, whatever ``keep`` is.
        """
        drawn = self.variant in self.study.inspect
        last = [self.checkpoint_path] if drawn or keep in ("last", "both") else []
        return [*([self.best_path] if keep in ("best", "both") else []), *last]

    @property
    def log_path(self) -> Path:
        """What the run's processes have printed."""
        return self.folder / "log.txt"

    def rows(self) -> list[Row]:
        """Read what the run has recorded so far."""
        text = _text(self.metrics_path)
        return [] if text is None else from_csv(text)

    @property
    def seconds(self) -> float:
        """Seconds of training that the checkpoint stands for; 0 without one."""
        return max((row["seconds"] for row in self.rows()), default=0.0) if self.checkpoint_path.exists() else 0.0

    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        text = _text(self.folder / "outcome.json")
        return None if text is None else Outcome(**json.loads(text))

    @property
    def finished(self) -> bool:
        """Whether the run has been trained to its end."""
        outcome = self.outcome()
        return outcome is not None and outcome.status == "finished"

    def set_outcome(self, outcome: Outcome | None) -> None:
        """Write down how the run ended; None if it has not."""
        path = self.folder / "outcome.json"
        if outcome is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, json.dumps(outcome._asdict()))

    def progress(self) -> Progress | None:
        """How far the run is; None while it has not started."""
        text = _text(self.folder / "progress.json")
        return None if text is None else Progress(**json.loads(text))

    def set_progress(self, progress: Progress) -> None:
        """Write down how far the run is."""
        write_atomically(self.folder / "progress.json", json.dumps(progress._asdict()))

    def open(self) -> None:
        """Make the folder, and forget how far an earlier process came."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "progress.json").unlink(missing_ok=True)

    @contextmanager
    def taken(self, wait: float = 0) -> Iterator[None]:
        """Keep other processes, on this machine or another with the same folder, from training the run too.

        The lock is the operating system's: it ends with the process, however that ends.

        Args:
            wait: seconds for which to wait for the process that has the run; -1 for as long as it takes.

        Raises:
            BusyError: another process has the run.
        """
        if not is_main_process():  # it was started by the process that has the run
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise BusyError(f"{self.label} is being run by another process") from None
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class Preparation(Run):
    """The training of a model that all runs need: a run with the name of the preparation for its ``variant``."""

    @property
    def label(self) -> str:
        """The words for the preparation in a message."""
        return f"preparation {self.variant}"

    @property
    def key(self) -> list[str]:
        """The argument that names the preparation to ``python -m mn_lightning.compare.runs``."""
        return [self.variant]

    @property
    def folder(self) -> Path:
        """Where everything of it is."""
        return self.root / "prepare" / self.variant

    @property
    def arguments(self) -> list[str]:
        """The command line of ``mn-lightning``."""
        return self.study.preparation(self.variant)

    def kept(self, keep: Keep) -> list[Path]:
        """Return the last checkpoint: the runs load it."""
        return [self.checkpoint_path]


def runs_in(folder: StudyFolder) -> list[Run]:
    """Return all runs of a study, in the order in which they are trained."""
    return [Run(folder.study, variant, seed, folder.root) for variant, seed in folder.study.runs]


def preparations(study: Study, root: Path) -> list[Preparation]:
    """Return what is trained before the runs."""
    return [Preparation(study, name, 0, root) for name in study.prepare]


def is_main_process() -> bool:
    """Whether this process is the first of those that train the run together."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _text(path: Path) -> str | None:
    """Return what the file holds; None if there is none. The run's process may remove it between a look and a read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
