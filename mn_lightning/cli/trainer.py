"""The Trainer of the command line: a method for each of our subcommands."""

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from mn_lightning.callbacks import FIDCallback
from mn_lightning.inspection.collector import load_content, tensors_in
from mn_lightning.inspection.inspect import inspect
from mn_lightning.swap.listing import norm_layers
from mn_lightning.utils.checkpoint_file import read_checkpoint
from mn_lightning.utils.tables import print_table
from mn_lightning.utils.text import in_one_line


class CommandTrainer(Trainer):
    """A Trainer with ``layers``, ``inspect`` and ``fid``, so that LightningCLI makes subcommands of them."""

    def layers(self, model: LightningModule, datamodule: LightningDataModule | None = None) -> None:
        """List the norm layers of the network: what can be written under ``layers`` of NormSwapCallback.

        Args:
            model: its example_input_array gives the layers' shapes.
            datamodule: its first batch is used where the model has no example_input_array.
        """
        found, note = norm_layers(model), ""
        try:
            found = norm_layers(model, self._example_input(model, datamodule))
        except Exception as error:  # models and data can raise anything, and the names are useful without shapes
            note = f"The shapes are unknown: {in_one_line(str(error)) or type(error).__name__}."
        rows = [
            (layer.name, layer.kind, layer.num_features or "", "×".join(map(str, layer.input_shape or ())) or "unknown")
            for layer in found
        ]
        print_table("Norm layers", ("name", "kind", "channels", "input shape"), rows)
        if note:
            print(note)

    def _example_input(self, model: LightningModule, datamodule: LightningDataModule | None) -> Tensor:
        if isinstance(model.example_input_array, Tensor):
            return model.example_input_array
        if datamodule is not None:
            datamodule.trainer = self
            datamodule.setup("fit")  # without prepare_data, which may download
        elif not is_overridden("train_dataloader", model):
            raise ValueError("the model has no example_input_array, and no data is given")
        batch = next(iter((model if datamodule is None else datamodule).train_dataloader()))
        images = next(tensors_in(batch), None)
        if images is None:
            raise ValueError("the model has no example_input_array, and the data's first batch has no tensor")
        return images[:2]

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
            datamodule: its validation data are what the model is run on.
            layer: Name or glob of the layers, as under layers of NormSwapCallback; all by default.
            channels: Channels to draw; by default four for each layer.
            folder: Where to write index.html and the pictures.
            samples: How many images to look at.
        """
        inspect(self, model, datamodule, ckpt_path, layer, channels, folder, samples)

    def fid(self, model: LightningModule, ckpt_path: str, datamodule: LightningDataModule | None = None) -> None:
        """Measure the Fréchet distance of what a checkpoint's generator makes, as the trainer's FIDCallbacks say.

        Args:
            model: as it was at the start of the training.
            ckpt_path: The checkpoint's file.
            datamodule: its training data are the real images, unless FIDCallback was given others.
        """
        present: list[Callback] = self.callbacks  # type: ignore[attr-defined]
        callbacks = [callback for callback in present if isinstance(callback, FIDCallback)]
        if not callbacks:
            raise ValueError(
                "there is no FIDCallback among trainer.callbacks, which says what to measure; add one to the "
                "configuration, or --trainer.callbacks+=FIDCallback"
            )
        load_content(self, model, read_checkpoint(ckpt_path))
        self._data_connector.attach_data(model, datamodule=datamodule)
        self.strategy.connect(model)
        for callback in callbacks:
            callback.setup(self, model, "test")
            for name, value in callback.measure(self, model).items():
                print(f"{name}: {value:.6g}")
