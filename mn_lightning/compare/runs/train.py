"""One run of a study: its folder, its training, its outcome."""

import json
import math
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from mn_lightning.cli import CommandTrainer, MNLightningCLI
from mn_lightning.compare.runs.best import BestKeeper
from mn_lightning.compare.runs.recorder import Row, RunRecorder, from_csv
from mn_lightning.compare.study.study import Study, StudyError
from mn_lightning.utils.files import write_atomically

Status = Literal["finished", "failed"]


class Limits(NamedTuple):
    """Upper limits for small machines: epochs, and training samples in an epoch."""

    epochs: int | None = None
    samples: int | None = None


class Outcome(NamedTuple):
    """How a run ended: its status, the last line of its error, and how many seconds it took.

    Of processes that were interrupted, what counts is the training up to the run's last evaluation before.
    """

    status: Status
    error: str
    seconds: float


class BusyError(RuntimeError):
    """Another process has the run."""


@dataclass(frozen=True)
class Run:
    """The run of a variant with a seed, in its folder inside the study's."""

    study: Study
    variant: str
    seed: int
    root: Path

    @property
    def folder(self) -> Path:
        """Where everything of the run is."""
        return self.root / "runs" / self.variant / f"seed-{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The command line of ``mn-lightning``."""
        prepared = {name: Preparation.of(self.study, name, self.root) for name in self.study.prepare}
        paths = {name: preparation.checkpoint_path.absolute() for name, preparation in prepared.items()}
        return self.study.arguments(self.variant, self.seed, paths)

    @property
    def metrics_path(self) -> Path:
        """The CSV file of :class:`~mn_lightning.compare.runs.recorder.RunRecorder`."""
        return self.folder / "metrics.csv"

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint of the last whole epoch."""
        return self.folder / "checkpoints" / "last.ckpt"

    def rows(self) -> list[Row]:
        """Read what the run has recorded so far."""
        return from_csv(self.metrics_path.read_text(encoding="utf-8")) if self.metrics_path.exists() else []

    def outcome(self) -> Outcome | None:
        """How the run ended; None while it has not."""
        path = self.folder / "outcome.json"
        return Outcome(**json.loads(path.read_text())) if path.exists() else None

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

    @contextmanager
    def taken(self, wait: bool = False) -> Iterator[None]:
        """Keep other processes, on this machine or at the same shared folder, from taking the run too.

        The lock is the operating system's: it ends with the process, however that ends.

        Args:
            wait: for another process that has it.

        Raises:
            BusyError: another process has it.
        """
        if not _is_main_process():  # started by the one that has the run
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(blocking=wait)
        except Timeout:
            raise BusyError(f"{self.variant}, seed {self.seed} is being run by another process") from None
        try:
            yield
        finally:
            lock.release()

    def _seconds_before(self) -> float:
        """What has been spent on the run, if it goes on from a checkpoint."""
        return max((row["seconds"] for row in self.rows()), default=0.0) if self.checkpoint_path.exists() else 0.0

    def configuration(self, limits: Limits) -> str:
        """Return what the run would save as ``config.yaml``, without making anything of it.

        Raises:
            jsonargparse.ArgumentError: it does not parse.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again with the run
            cli = _ParsingCLI(self, limits)
            text: str = cli._parser("fit").dump(cli.config.fit, skip_none=False)
        return text

    def train(self, limits: Limits, wait: bool = False) -> Outcome:
        """Train from the start, or from the checkpoint of a run that was interrupted; a failure is an outcome too.

        Args:
            limits: for small machines.
            wait: for another process that has the run.

        Raises:
            BusyError: another process has the run.
        """
        with self.taken(wait):
            outcome = self.outcome()
            if outcome is not None and outcome.status == "finished":
                return outcome
            if _is_main_process():
                self.set_outcome(None)
            started = time.monotonic() - self._seconds_before()
            # The arguments are made from the study, and not from the command line that named it.
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
            try:
                _RunCLI(self, limits)
                outcome = Outcome("finished", "", time.monotonic() - started)
            except Exception as error:
                # Whatever a user's model raises concerns this run alone: the others go on.
                traceback.print_exc()
                outcome = Outcome("failed", last_line(error), time.monotonic() - started)
            if _is_main_process():
                self.set_outcome(outcome)
            return outcome


@dataclass(frozen=True)
class Preparation(Run):
    """The training of what all runs need: a run of its own, named by ``variant``."""

    @classmethod
    def of(cls, study: Study, name: str, root: Path) -> "Preparation":
        """Return the preparation called ``name``."""
        return cls(study, name, 0, root)

    @property
    def folder(self) -> Path:
        """Where everything of it is."""
        return self.root / "prepare" / self.variant

    @property
    def arguments(self) -> list[str]:
        """The command line of ``mn-lightning``."""
        return self.study.preparation(self.variant)


def _is_main_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def last_line(error: BaseException) -> str:
    """Return what Python prints last for an error: its type and text."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[-1]


class _RunCLI(MNLightningCLI):
    """``mn-lightning fit`` with recorder, checkpoints and logs in the run's folder."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self.run = run
        self.limits = limits
        arguments = [*run.arguments, f"--trainer.default_root_dir={run.folder}", "--trainer.enable_checkpointing=true"]
        if run.checkpoint_path.exists():
            arguments.append(f"--ckpt_path={run.checkpoint_path}")
        checkpoint = ModelCheckpoint(
            run.checkpoint_path.parent,
            filename=run.checkpoint_path.stem,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        recorder = RunRecorder(run.metrics_path)
        best = BestKeeper(recorder, run.folder, run.study.metric, run.study.mode)
        super().__init__(
            trainer_class=CommandTrainer,
            trainer_defaults={"callbacks": [recorder, best, checkpoint]},
            parser_kwargs=raising("mn-lightning compare"),
            save_config_kwargs={"overwrite": True},
            args=arguments,
        )

    def before_instantiate_classes(self) -> None:
        """Direct the logs into the run's folder, and apply the limit of epochs."""
        trainer = self.config.fit.trainer
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            if "save_dir" in getattr(logger, "init_args", {}):
                logger.init_args.save_dir = str(self.run.folder)
        if self.limits.epochs is not None:
            unlimited = trainer.max_epochs in (None, -1)
            trainer.max_epochs = self.limits.epochs if unlimited else min(self.limits.epochs, trainer.max_epochs)

    def before_fit(self) -> None:
        """Apply the limit of samples."""
        if self.limits.samples is not None:
            batch_size = getattr(self.datamodule, "batch_size", None)
            if batch_size is None:
                raise StudyError(
                    f"--limit_samples needs a datamodule with an attribute batch_size; "
                    f"{type(self.datamodule).__name__} has none"
                )
            batches = math.ceil(self.limits.samples / (batch_size * self.trainer.world_size))
            self.trainer.limit_train_batches = batches
            if self.trainer.check_val_every_n_epoch is None and isinstance(self.trainer.val_check_interval, int):
                # Counted across epochs: what is limited might end before the first evaluation.
                self.trainer.val_check_interval = min(self.trainer.val_check_interval, batches)


class _ParsingCLI(_RunCLI):
    """Ends with the configuration, for which LightningCLI has no public way that includes our changes to it."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def _set_seed(self) -> None:
        """Leave the random state alone."""


def raising(prog: str) -> dict[str, Any]:
    """Arguments for LightningCLI's parsers that make a wrong configuration an exception instead of an exit."""
    return {"prog": prog, "exit_on_error": False, "fit": {"exit_on_error": False}}
