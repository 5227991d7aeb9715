"""A run of a study that is made and not started."""

from mn_lightning.cli import CommandTrainer, MNLightningCLI
from mn_lightning.compare.study.study import Study


class BuiltCLI(MNLightningCLI):
    """Parses and makes a run, and does not start it."""

    def __init__(self, study: Study, variant: str, *more: str) -> None:
        super().__init__(
            trainer_class=CommandTrainer,
            save_config_callback=None,
            run=False,
            args=[
                *study.arguments(variant, study.seeds[0])[1:],
                "--trainer.accelerator=cpu",
                "--trainer.devices=1",
                "--trainer.strategy=auto",
                "--trainer.logger=false",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
                *more,
            ],
        )
