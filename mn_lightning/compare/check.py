"""Try everything with one batch first, so that mistakes are found before hours of training."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer

from mn_lightning.callbacks.current_statistics import CURRENT
from mn_lightning.compare.runs.facts import check_baseline
from mn_lightning.compare.runs.train import was_told_to_end
from mn_lightning.compare.study.fit import StudyCLI
from mn_lightning.compare.study.study import Study, StudyError, variant_label
from mn_lightning.utils.text import what_happened

_ONE_BATCH = (
    "--trainer.fast_dev_run=true",
    "--trainer.devices=1",
    "--trainer.num_nodes=1",
    "--trainer.strategy=auto",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--test_after_fit=false",
)


def check_study(study: Study) -> None:
    """Train and validate every preparation and variant with one batch in this process, on one device.

    Raises:
        StudyError: one of them does not parse, cannot be built or trained, or does not log the study's metric; or a
            baseline has mixtures or modes.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = {name: Path(folder, f"{name}.ckpt") for name in study.prepare}
        for name, path in prepared.items():
            label = f"the preparation {name!r} of the study {study.name!r}"
            _train_one_batch(label, study.preparation(name)).save_checkpoint(path, weights_only=True)
        for variant in study.variants:
            label = variant_label(study, variant)
            trainer = _train_one_batch(label, study.arguments(variant, study.seeds[0], prepared))
            check_baseline(study, variant, trainer.lightning_module)
            logged = trainer.callback_metrics
            if study.metric not in logged:
                names = ", ".join(sorted(logged)) or "nothing"
                raise StudyError(f"{label} does not log the metric {study.metric!r}; it logs {names}")
            if study.current_statistics and f"{study.metric}{CURRENT}" not in logged:
                raise StudyError(
                    f"{label} does not log {study.metric!r} in validation_step, which alone is evaluated with current "
                    "statistics; leave out --current_statistics (in a study's file: current_statistics)"
                )


def _train_one_batch(label: str, arguments: list[str]) -> Trainer:
    try:
        with warnings.catch_warnings(), _silence():
            warnings.simplefilter("ignore")  # the runs will show them again
            return StudyCLI(label, [*arguments, *_ONE_BATCH], save_config_callback=None).trainer
    except StudyError:
        raise
    except SystemExit as ending:
        if was_told_to_end(ending):
            raise KeyboardInterrupt from None
        raise StudyError(f"{label} does not run: it ends the process, by sys.exit({ending.code!r})") from ending
    except Exception as error:
        # A model can raise anything. It would raise the same in the runs; the user should know now.
        raise StudyError(f"{label} does not run: {what_happened(error)}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide what a training prints: the runs print it again, into their logs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
