"""The Trainer of the command line: a method for each of our subcommands."""

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from mn_lightning.inspection.inspect import inspect
from mn_lightning.swap.listing import norm_layers
from mn_lightning.utils.tables import print_table


class CommandTrainer(Trainer):
    """A Trainer with ``layers`` and ``inspect``, so that LightningCLI makes subcommands of them."""

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
