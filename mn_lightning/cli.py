"""The command line: Lightning's own subcommands on the package's models, data and callbacks, and two of ours."""

import sys
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor

# Importing these makes their classes known by their short names.
import mn_lightning.callbacks
import mn_lightning.data
import mn_lightning.models  # noqa: F401
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.inspection.inspect import inspect
from mn_lightning.swap.listing import norm_layers
from mn_lightning.utils.tables import print_table


class ListingTrainer(Trainer):
    """A Trainer with more entry points, so that LightningCLI makes subcommands of them."""

    def layers(self, model: LightningModule, datamodule: LightningDataModule | None = None) -> None:
        """List the norm layers of the network: what can be written under ``layers`` of NormSwapCallback."""
        example = model.example_input_array
        found = norm_layers(model, example if isinstance(example, Tensor) else None)
        rows = [
            (layer.name, layer.kind, layer.num_features or "", "×".join(map(str, layer.input_shape or ())) or "unknown")
            for layer in found
        ]
        print_table("Norm layers", ("name", "kind", "channels", "input shape"), rows)

    def inspect(
        self,
        model: LightningModule,
        ckpt_path: str,
        datamodule: LightningDataModule | None = None,
        layer: str | None = None,
        channels: list[int] | None = None,
        folder: str = "inspection",
        samples: int = 512,
    ) -> None:
        """Draw what the swapped layers of a checkpoint do with the validation data, with a page around the pictures.

        Args:
            model: as it was at the start of the training.
            ckpt_path: The checkpoint's file.
            datamodule: whose validation data.
            layer: Name or glob of the layers, as under layers of NormSwapCallback; all by default.
            channels: Channels to draw; by default four for each layer.
            folder: Where to write index.html and the pictures.
            samples: How many images to look at.
        """
        inspect(self, model, datamodule, ckpt_path, layer, channels, folder, samples)


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
            cast(ListingTrainer, self.trainer).inspect(**kwargs)
        except InspectionError as error:
            sys.exit(f"mn-lightning inspect: {error}")

    def after_fit(self) -> None:
        """Test the weights that the training ended with."""
        if self.config.fit.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule)
