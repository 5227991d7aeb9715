"""Find out before anything is run what would go wrong in hours."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentError
from lightning.pytorch import Trainer

from mn_lightning.cli import CommandTrainer, MNLightningCLI
from mn_lightning.compare.runs.train import raising
from mn_lightning.compare.study.study import Study, StudyError


def check_study(study: Study) -> None:
    """Train and validate every preparation and variant with one batch in this process, on one device.

    Raises:
        StudyError: one of them does not parse, cannot be built or trained, or does not log the study's metric.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = {name: Path(folder, f"{name}.ckpt") for name in study.prepare}
        for name, path in prepared.items():
            where = f"the preparation {name!r} of the study {study.name!r}"
            _try(where, study.preparation(name)).save_checkpoint(path, weights_only=True)
        for variant in study.variants:
            where = named(study, variant)
            logged = _try(where, study.arguments(variant, study.seeds[0], prepared)).callback_metrics
            if study.metric not in logged:
                names = ", ".join(sorted(logged)) or "nothing"
                raise StudyError(f"{where} does not log the metric {study.metric!r}; it logs {names}")


def named(study: Study, variant: str) -> str:
    """Name a variant in a message."""
    return f"the variant {variant!r} of the study {study.name!r}"


@contextmanager
def parse_errors_in_one_line(where: str) -> Iterator[None]:
    """Say in one line what does not parse.

    Args:
        where: its name.

    Raises:
        StudyError: the parser raised its own error inside.
    """
    try:
        yield
    except ArgumentError as error:
        raise StudyError(f"{where} does not parse: {_flat(error)}") from error


def _try(where: str, arguments: list[str]) -> Trainer:
    try:
        with warnings.catch_warnings(), parse_errors_in_one_line(where):
            warnings.simplefilter("ignore")  # they come again with the runs
            cli = _CheckCLI(arguments)
    except StudyError:
        raise
    except Exception as error:
        # Any error of any model: it would come in the runs, and is of use before them.
        raise StudyError(f"{where} does not run: {type(error).__name__}: {_flat(error)}") from error
    return cli.trainer


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())


class _CheckCLI(MNLightningCLI):
    def __init__(self, arguments: list[str]) -> None:
        super().__init__(
            trainer_class=CommandTrainer,
            save_config_callback=None,
            parser_kwargs=raising("mn-lightning compare"),
            args=[
                *arguments,
                "--trainer.fast_dev_run=true",
                "--trainer.devices=1",
                "--trainer.num_nodes=1",
                "--trainer.strategy=auto",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                "--test_after_fit=false",
            ],
        )
