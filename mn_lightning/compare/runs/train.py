"""Train one run, from its start or from its last checkpoint."""

import math
import time
import traceback
import warnings

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from mn_lightning.compare.runs.best import BestKeeper
from mn_lightning.compare.runs.facts import FactsWriter
from mn_lightning.compare.runs.progress import ProgressWriter
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.compare.runs.run import Outcome, Run, is_main_process
from mn_lightning.compare.study.fit import StudyCLI, Until
from mn_lightning.compare.study.folder import Keep, Limits
from mn_lightning.compare.study.study import StudyError, variant_label


def train(run: Run, limits: Limits, keep: Keep, wait: float = 0) -> Outcome:
    """Train from the start, or from the checkpoint of a run that was interrupted. A failure is an outcome too.

    Args:
        run: is not trained again if it has finished.
        limits: for small machines.
        keep: the checkpoints that stay when it has finished.
        wait: seconds for which to wait for another process that has the run; -1 for as long as it takes.

    Raises:
        BusyError: another process has the run.
    """
    with run.taken(wait):
        outcome = run.outcome()
        if outcome is not None and outcome.status == "finished":
            return outcome
        if is_main_process():
            run.set_outcome(None)
        started = time.monotonic() - run.seconds
        # LightningCLI warns of a command line that differs from sys.argv: ours is made from the study.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        try:
            _RunCLI(run, limits, keep)
            outcome = Outcome("finished", "", time.monotonic() - started)
        except Exception as error:
            # Whatever a user's model raises concerns this run alone: the others go on.
            traceback.print_exc()
            outcome = Outcome("failed", last_line(error), time.monotonic() - started)
        if is_main_process():
            run.set_outcome(outcome)
            if outcome.status == "finished":
                for path in {run.best_path, run.checkpoint_path} - set(run.kept(keep)):
                    path.unlink(missing_ok=True)
        return outcome


def plan(run: Run, limits: Limits) -> tuple[str, LightningModule | None]:
    """Return what the run would save as ``config.yaml``, and its model without values; nothing else is made.

    Raises:
        StudyError: the run's configuration does not parse.
    """
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # they come again with the run
        try:
            cli = _RunCLI(run, limits, "none", until="model")
            model: LightningModule | None = cli.model
        except StudyError:
            raise
        except Exception:  # some models cannot be made without values, or not at all, which the runs will say
            cli, model = _RunCLI(run, limits, "none", until="parsed"), None
    text: str = cli._parser("fit").dump(cli.config.fit, skip_none=False)
    return text, model


def last_line(error: BaseException) -> str:
    """Return what Python prints last for an error: its type and text."""
    return traceback.format_exception_only(error)[-1].strip().splitlines()[-1]


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
                # It is counted across epochs: what is limited might end before the first evaluation.
                self.trainer.val_check_interval = min(self.trainer.val_check_interval, batches)
