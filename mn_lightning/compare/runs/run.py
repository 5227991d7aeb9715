"""One run of a study: its folder, what has been recorded there, and how it ended."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from mn_lightning.compare.runs.best import CHECKPOINT
from mn_lightning.compare.runs.recorder import Row, read_rows
from mn_lightning.compare.study.folder import Keep, StudyFolder
from mn_lightning.compare.study.origin import NAME, Maker, read_origin, settings_of
from mn_lightning.compare.study.study import Limits, Study, StudyError
from mn_lightning.utils.checkpoint_file import DamagedCheckpointError, read_checkpoint
from mn_lightning.utils.files import free_path, write_atomically
from mn_lightning.utils.text import say

Status = Literal["finished", "failed"]


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        status: finished or failed.
        error: one line that says what happened; empty for a run that finished.
        seconds: time that the run took. For a process that was interrupted, the training up to its last evaluation
            counts.
    """

    status: Status
    error: str
    seconds: float


class Progress(NamedTuple):
    """The progress of a run.

    Attributes:
        done: share of the training, 0 to 1.
        score: the last value of the study's metric; None before the first.
        left: estimated seconds to the end; None before there is an estimate.
    """

    done: float
    score: float | None
    left: float | None


class BusyError(RuntimeError):
    """Another process is training the run."""


@dataclass(frozen=True)
class Run:
    """The run of a variant with a seed, in its folder inside the study's."""

    study: Study
    variant: str
    seed: int
    root: Path

    @property
    def label(self) -> str:
        """The run's name in messages."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def key(self) -> list[str]:
        """The arguments that name the run to ``python -m mn_lightning.compare.runs``."""
        return [self.variant, str(self.seed)]

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.root / "runs" / self.variant / f"seed-{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The command line of ``mn-lightning``."""
        paths = {run.variant: run.checkpoint_path.absolute() for run in preparations(self.study, self.root)}
        return self.study.arguments(self.variant, self.seed, paths)

    def settings(self, limits: Limits) -> dict[str, Any]:
        """What the study says about the run, except its seed."""
        return settings_of(self.study, self.variant, limits)

    @property
    def metrics_path(self) -> Path:
        """The CSV file of :class:`~mn_lightning.compare.runs.recorder.RunRecorder`."""
        return self.folder / "metrics.csv"

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint of the last complete epoch."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best_path(self) -> Path:
        """The checkpoint of :class:`~mn_lightning.compare.runs.best.BestKeeper`."""
        return self.folder / CHECKPOINT

    def kept(self, keep: Keep) -> list[Path]:
        """Return the checkpoints that remain when the run has finished.

        If the report draws the variant's layers, the last checkpoint is among them, whatever ``keep`` is.
        """
        drawn = self.variant in self.study.inspect
        last = [self.checkpoint_path] if drawn or keep in ("last", "both") else []
        return [*([self.best_path] if keep in ("best", "both") else []), *last]

    @property
    def log_path(self) -> Path:
        """The file with what the run's processes have printed."""
        return self.folder / "log.txt"

    def rows(self) -> list[Row]:
        """Read what the run has recorded so far.

        Raises:
            ValueError: the file is damaged.
        """
        return read_rows(self.metrics_path)

    @property
    def seconds(self) -> float:
        """Seconds of training up to the checkpoint; 0 without one."""
        try:
            rows = self.rows() if self.checkpoint_path.exists() else []
        except ValueError:
            rows = []
        return max((row["seconds"] for row in rows), default=0.0)

    @property
    def made_by(self) -> tuple[Maker, ...]:
        """The machines and versions that trained the run; empty for runs of versions before 0.2."""
        origin = read_origin(self.folder)
        return () if origin is None else origin.made_by

    def fault(self) -> str:
        """Say why the run cannot be reported, whatever its process said at its end; an empty text if it can."""
        # The display calls this for all runs twice a second.
        return _fault(
            self.folder, self.metrics_path, self.study.metric, _stamp(self.metrics_path), _stamp(self.folder / NAME)
        )

    def outcome(self) -> Outcome | None:
        """How the run ended; None if it has not. A run with damaged files counts as failed, and is trained again."""
        path = self.folder / "outcome.json"
        try:
            ended = Outcome(**_json(path))
            if (
                ended.status not in get_args(Status)
                or not isinstance(ended.error, str)
                or not _is_number(ended.seconds)
            ):
                raise ValueError
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, RecursionError):
            return Outcome("failed", f"{path} is damaged; the same command trains the run again", 0.0)
        fault = self.fault() if ended.status == "finished" else ""
        return Outcome("failed", fault, ended.seconds) if fault else ended

    @property
    def finished(self) -> bool:
        """Whether the run has finished its training."""
        outcome = self.outcome()
        return outcome is not None and outcome.status == "finished"

    def set_outcome(self, outcome: Outcome | None) -> None:
        """Record how the run ended; None removes the record."""
        path = self.folder / "outcome.json"
        if outcome is None:
            path.unlink(missing_ok=True)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(outcome._asdict()))

    def progress(self) -> Progress | None:
        """The progress of the run; None if it has not started."""
        try:
            progress = Progress(**_json(self.folder / "progress.json"))
        except (OSError, ValueError, TypeError, RecursionError):  # only the display needs it
            return None
        score_is_known = progress.score is None or isinstance(progress.score, float)
        known = _is_number(progress.done) and score_is_known and (progress.left is None or _is_number(progress.left))
        return progress if known else None

    def set_progress(self, progress: Progress) -> None:
        """Record the run's progress."""
        write_atomically(self.folder / "progress.json", json.dumps(progress._asdict()))

    def open(self) -> None:
        """Make the folder, and delete the progress of an earlier process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            (self.folder / "progress.json").unlink()

    def set_aside_what_is_damaged(self) -> None:
        """Rename files that a training could not read or overwrite, and say so."""
        for path in (self.folder / "progress.json", self.folder / "outcome.json"):
            if path.is_dir():
                self._set_aside(path, "is a folder")
        try:
            self.rows()
        except ValueError:
            self._set_aside(self.metrics_path, "is damaged")
        try:
            read_origin(self.folder)
        except ValueError:
            self._set_aside(self.folder / NAME, "is damaged")
            if self.checkpoint_path.exists():
                self._set_aside(self.checkpoint_path, f"has settings that {NAME} does not name; the run starts anew")
        try:
            if self.checkpoint_path.is_dir():
                raise DamagedCheckpointError
            if self.checkpoint_path.exists():
                read_checkpoint(self.checkpoint_path)
        except DamagedCheckpointError:
            self._set_aside(self.checkpoint_path, "is damaged; the run starts anew")

    def files_set_aside(self) -> set[Path]:
        """The files that :meth:`set_aside_what_is_damaged` has renamed, now or earlier."""
        return {path for folder in (self.folder, self.checkpoint_path.parent) for path in folder.glob("*.damaged*")}

    def _set_aside(self, path: Path, why: str) -> None:
        aside = free_path(path.with_name(f"{path.name}.damaged"))
        path.rename(aside)
        say("compare", f"{self.label}: {path} {why}; it is {aside.name} now")

    @contextmanager
    def taken(self, wait: float = 0) -> Iterator[None]:
        """Prevent other processes from training the run, on this machine or on another one with the same folder.

        The operating system holds the lock: it is released when the process ends, in whatever way.

        Args:
            wait: seconds to wait for the process that has the run; -1 waits without limit.

        Raises:
            BusyError: another process is training the run.
            StudyError: something else is in the lock's place.
        """
        if not is_main_process():  # this process was started by the one that has the run
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            raise BusyError(f"{self.label} is being run by another process") from None
        except OSError as error:
            raise StudyError(f"{lock.lock_file} cannot be locked: {error.strerror}; remove it") from error
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class Preparation(Run):
    """The training of a model that all runs need: a run whose ``variant`` is the name of the preparation."""

    @property
    def label(self) -> str:
        """The preparation's name in messages."""
        return f"preparation {self.variant}"

    @property
    def key(self) -> list[str]:
        """The argument that names the preparation to ``python -m mn_lightning.compare.runs``."""
        return [self.variant]

    @property
    def folder(self) -> Path:
        """The folder of the preparation."""
        return self.root / "prepare" / self.variant

    @property
    def arguments(self) -> list[str]:
        """The command line of ``mn-lightning``."""
        return self.study.preparation(self.variant)

    def settings(self, limits: Limits) -> dict[str, Any]:
        """What the study says about the preparation."""
        return {"prepare": self.study.to_dict()["prepare"][self.variant]}

    def kept(self, keep: Keep) -> list[Path]:
        """Return the last checkpoint, which the runs load."""
        return [self.checkpoint_path]

    def fault(self) -> str:
        """Say why the runs cannot use it."""
        return "" if self.checkpoint_path.is_file() else f"{self.checkpoint_path} is gone"


def runs_in(folder: StudyFolder) -> list[Run]:
    """Return all runs of a study, in the order in which they are trained."""
    return [Run(folder.study, variant, seed, folder.root) for variant, seed in folder.study.runs]


def preparations(study: Study, root: Path) -> list[Preparation]:
    """Return the preparations, which are trained before the runs."""
    return [Preparation(study, name, 0, root) for name in study.prepare]


def is_main_process() -> bool:
    """Whether this process is the first of those that train the run together (rank 0)."""
    return getattr(rank_zero_only, "rank", 0) == 0


@lru_cache(maxsize=10_000)
def _fault(folder: Path, metrics: Path, metric: str, *stamps: tuple[int, int]) -> str:
    """Compute :meth:`Run.fault`; the result is reused as long as the files do not change."""
    try:
        read_origin(folder)
        values = [row[metric] for row in read_rows(metrics) if metric in row]
    except ValueError as error:
        return f"{error}; the same command trains the run again"
    if not values:
        return f"nothing was measured: {metrics} has no {metric}"
    if not any(map(math.isfinite, values)):
        return f"no value of {metric} is finite; the last of {len(values)} is {values[-1]}"
    return ""


def _stamp(path: Path) -> tuple[int, int]:
    """Return a value that changes with a file, or with whatever is in its place."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno or 0, 0
    return found.st_mtime_ns, found.st_size


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes().decode())
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
