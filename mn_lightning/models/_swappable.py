"""What the LightningModules of this package share: what they do with a checkpoint beside what Lightning does."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning import LightningModule

from mn_lightning.swap.check import check_layers
from mn_lightning.utils.checkpoint_file import arguments_for_loading
from mn_lightning.utils.loaders import restore_place

if TYPE_CHECKING:
    from typing_extensions import Self


class SwappableModule(LightningModule):
    """A LightningModule that refuses the weights of other norm layers in one line, with or without callbacks.

    A checkpoint brings it numbers only: ``load_from_checkpoint`` reads it in a way that cannot run code, and builds
    nothing that it names.

    A run that is resumed in the middle of an epoch goes on with the next batch, as
    :func:`~mn_lightning.utils.loaders.restore_place` sees to.
    """

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Load as Lightning does, but build nothing that the file names.

        :func:`mn_lightning.checkpoints.load_from_checkpoint` does so too, and swaps the layers first.

        Args:
            checkpoint_path: of a file, an address, or an open file.
            map_location: as ``torch.load`` takes it.
            hparams_file: a file of hyperparameters in place of those in the checkpoint.
            strict: as in :meth:`load_state_dict`.
            weights_only: False trusts the file, and does what Lightning does.
            **kwargs: arguments of the class.

        Raises:
            ValueError: the file is no checkpoint, or names classes for arguments that are not given.
        """
        arguments = arguments_for_loading(checkpoint_path, kwargs, weights_only)
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, **arguments)

    def on_train_start(self) -> None:
        """Go on in the training data where the checkpoint was saved."""
        restore_place(self.trainer)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; with ``strict``, a checkpoint with other norm layers is refused in one line."""
        if strict:
            check_layers(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)
