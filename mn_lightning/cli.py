"""The command line: Lightning's own subcommands on the package's models, data and callbacks, and ``layers``."""

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor

# Importing these makes their classes known by their short names.
import mn_lightning.callbacks
import mn_lightning.data
import mn_lightning.models  # noqa: F401
from mn_lightning._tables import print_table
from mn_lightning.inspection import norm_layers


class ListingTrainer(Trainer):
    """A Trainer with one more entry point, so that LightningCLI makes a subcommand of it."""

    def layers(self, model: LightningModule, datamodule: LightningDataModule | None = None) -> None:
        """List the norm layers of the network: what can be written under ``layers`` of NormSwapCallback."""
        example = model.example_input_array
        found = norm_layers(model, example if isinstance(example, Tensor) else None)
        rows = [
            (layer.name, layer.kind, layer.num_features or "", "×".join(map(str, layer.input_shape or ())) or "unknown")
            for layer in found
        ]
        print_table("Norm layers", ("name", "kind", "channels", "input shape"), rows)


class MNLightningCLI(LightningCLI):
    """LightningCLI with ``layers``, and a test after ``fit`` where the configuration asks for it."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands and ours, with the arguments that are not read from the command line."""
        return {**LightningCLI.subcommands(), "layers": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the package's own arguments."""
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the trained weights after fit.")

    def after_fit(self) -> None:
        """Test the weights that the training ended with."""
        if self.config.fit.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule)
