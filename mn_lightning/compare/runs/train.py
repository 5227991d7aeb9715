"""Train one run, from its start or from its last checkpoint."""

import math
import time
import traceback
import warnings

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mn_lightning.compare.runs.best import BestKeeper
from mn_lightning.compare.runs.facts import FactsWriter
from mn_lightning.compare.runs.measured import why_unmeasured
from mn_lightning.compare.runs.progress import ProgressWriter
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.compare.runs.run import Outcome, Preparation, Run, is_main_process
from mn_lightning.compare.study.fit import StudyCLI, Until
from mn_lightning.compare.study.folder import Keep
from mn_lightning.compare.study.origin import Origin, read_origin, this_maker, write_origin
from mn_lightning.compare.study.study import Limits, StudyError, variant_label
from mn_lightning.utils.text import what_happened


def train(run: Run, limits: Limits, keep: Keep, wait: float = 0) -> Outcome:
    """Train from the start, or from the checkpoint of an interrupted run. A failure is returned as an outcome too.

    Args:
        run: the run; it is not trained again if it has finished.
        limits: for small machines.
        keep: the checkpoints that remain when it has finished.
        wait: seconds to wait for another process that has the run; -1 waits without limit.

    Raises:
        BusyError: another process is training the run.
        StudyError: the run's folder cannot be used.
        SystemExit: the process was told to end.
    """
    with run.taken(wait):
        outcome = run.outcome()
        if outcome is not None and outcome.status == "finished":
            return outcome
        if is_main_process():
            run.set_aside_what_is_damaged()
            run.set_outcome(None)
        started = time.monotonic() - run.seconds
        # LightningCLI warns of a command line that differs from sys.argv, but ours is made from the study.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        error = ""
        try:
            cli = _RunCLI(run, limits, keep)
            if is_main_process() and (error := run.fault()) and not isinstance(run, Preparation):
                error = why_unmeasured(cli.trainer, run) or error
        except SystemExit as ending:
            if was_told_to_end(ending):
                raise
            error = f"the model ended the process, by sys.exit({ending.code!r})"
        except Exception as raised:
            # Any error of a user's model affects this run only: the others go on.
            traceback.print_exc()
            error = str(raised) if isinstance(raised, StudyError) else what_happened(raised)
        outcome = Outcome("failed" if error else "finished", error, time.monotonic() - started)
        if is_main_process():
            run.set_outcome(outcome)
            if outcome.status == "finished":
                for path in {run.best_path, run.checkpoint_path} - set(run.kept(keep)):
                    path.unlink(missing_ok=True)
        return outcome


def was_told_to_end(ending: BaseException) -> bool:
    """Whether Lightning ended the process, after Ctrl-C or SIGTERM, and not the model itself."""
    cause: BaseException | None = ending
    while cause is not None and not isinstance(cause, (KeyboardInterrupt, SIGTERMException)):
        cause = cause.__context__
    return cause is not None


def plan(run: Run, limits: Limits) -> tuple[str, LightningModule | None]:
    """Return what the run would save as ``config.yaml``, and its model on the meta device; nothing else is made.

    Raises:
        StudyError: the run's configuration does not parse.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the run will show them again
        try:
            cli = _RunCLI(run, limits, "none", until="model")
            model: LightningModule | None = cli.model
        except StudyError:
            raise
        except Exception:  # some models cannot be made on the meta device, or not at all; the runs will report that
            cli, model = _RunCLI(run, limits, "none", until="parsed"), None
    return cli.configuration(), model


class _RunCLI(StudyCLI):
    """``mn-lightning fit`` with recorder, checkpoints and logs in the run's folder."""

    def __init__(self, run: Run, limits: Limits, keep: Keep, until: Until = "trained") -> None:
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
        progress = ProgressWriter(run, recorder)
        facts = FactsWriter(run.study, run.variant, run.folder)
        best = BestKeeper(
            recorder, run.folder, run.study.metric, run.study.mode, weights=run.best_path in run.kept(keep)
        )
        super().__init__(
            variant_label(run.study, run.variant),
            arguments,
            until,
            trainer_defaults={"callbacks": [recorder, progress, facts, best, checkpoint]},
            save_config_kwargs={"overwrite": True},
        )

    def configuration(self) -> str:
        """Return all settings as YAML, as they are saved in ``config.yaml``."""
        text: str = self._parser("fit").dump(self.config.fit, skip_none=False)
        return text

    def before_instantiate_classes(self) -> None:
        """Send the logs to the run's folder, and apply the limit on epochs."""
        trainer = self.config.fit.trainer
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            if "save_dir" in getattr(logger, "init_args", {}):
                logger.init_args.save_dir = str(self.run.folder)
        if self.limits.epochs is not None:
            unlimited = trainer.max_epochs in (None, -1)
            trainer.max_epochs = self.limits.epochs if unlimited else min(self.limits.epochs, trainer.max_epochs)
        if self.until == "trained" and is_main_process():
            self._write_origin()

    def _write_origin(self) -> None:
        before = read_origin(self.run.folder) if self.run.checkpoint_path.exists() else None
        made_by = (*(before.made_by if before else ()), this_maker())
        distinct = tuple(maker for at, maker in enumerate(made_by) if maker not in made_by[:at])
        write_origin(self.run.folder, Origin(self.run.settings(self.limits), self.configuration(), distinct))

    def before_fit(self) -> None:
        """Apply the limit on samples."""
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
                # This interval is counted across epochs, and a limited training might end before its first evaluation.
                self.trainer.val_check_interval = min(self.trainer.val_check_interval, batches)
