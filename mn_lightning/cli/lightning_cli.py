"""LightningCLI on the package's models, data and callbacks, with two subcommands of ours."""

import sys
from typing import Any, cast

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# Importing these makes their classes known by their short names.
import mn_lightning.callbacks
import mn_lightning.data
import mn_lightning.models  # noqa: F401
from mn_lightning.cli.trainer import CommandTrainer
from mn_lightning.inspection.errors import InspectionError


class MNLightningCLI(LightningCLI):
    """LightningCLI with ``layers`` and ``inspect``, and a test after ``fit`` where the configuration asks for it."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands and ours, with the arguments that are not read from the command line."""
        return {**LightningCLI.subcommands(), "layers": {"model", "datamodule"}, "inspect": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the package's own arguments."""
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the trained weights after fit.")

    def inspect(self, **kwargs: Any) -> None:
        """Say in one line what a user has to change."""
        try:
            cast(CommandTrainer, self.trainer).inspect(**kwargs)
        except InspectionError as error:
            sys.exit(f"mn-lightning inspect: {error}")

    def after_fit(self) -> None:
        """Test the weights that the training ended with."""
        if self.config.fit.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule)
