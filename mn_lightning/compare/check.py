"""Find out before anything is run what would go wrong in hours."""

import warnings

from jsonargparse import ArgumentError

from mn_lightning.cli import ListingTrainer, MNLightningCLI
from mn_lightning.compare.runs import raising
from mn_lightning.compare.study import Study, StudyError


def check_study(study: Study) -> None:
    """Train and validate every variant with one batch in this process, on one device.

    Raises:
        StudyError: a variant does not parse, cannot be built or trained, or does not log the study's metric.
    """
    for variant in study.variants:
        logged = _logged_metrics(study, variant)
        if study.metric not in logged:
            raise StudyError(
                f"the variant {variant!r} of the study {study.name!r} does not log the metric {study.metric!r}; "
                f"it logs {', '.join(sorted(logged)) or 'nothing'}"
            )


def _logged_metrics(study: Study, variant: str) -> set[str]:
    where = f"the variant {variant!r} of the study {study.name!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again with the runs
            cli = _CheckCLI(study.arguments(variant, study.seeds[0]))
    except ArgumentError as error:
        raise StudyError(f"{where} does not parse: {_flat(error)}") from error
    except Exception as error:
        # Any error of any model: it would come in the runs, and is of use before them.
        raise StudyError(f"{where} does not run: {type(error).__name__}: {_flat(error)}") from error
    return set(cli.trainer.callback_metrics)


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())


class _CheckCLI(MNLightningCLI):
    def __init__(self, arguments: list[str]) -> None:
        super().__init__(
            trainer_class=ListingTrainer,
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
