"""What the LightningModules of this package share: how they load checkpoints."""

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
    """A LightningModule that refuses weights of other norm layers in one line, with or without callbacks.

    Only numbers are taken from a checkpoint: ``load_from_checkpoint`` reads the file in a way that cannot run code, and
    builds no class that the file names.

    A run that is resumed in the middle of an epoch continues with the next batch, see
    :func:`~mn_lightning.utils.loaders.restore_place`.
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
        """Load as Lightning does, but build no class that the file names.

        :func:`mn_lightning.checkpoints.load_from_checkpoint` does so too, and swaps the layers first.

        Args:
            checkpoint_path: path or web address of a file, or an open file.
            map_location: as for ``torch.load``.
            hparams_file: a file with hyperparameters to use instead of the checkpoint's.
            strict: as in :meth:`load_state_dict`.
            weights_only: False only for a file that you trust: it is then loaded as Lightning does.
            **kwargs: arguments of the class.

        Raises:
            ValueError: the file is not a checkpoint, or names classes for arguments that are not given.
        """
        arguments = arguments_for_loading(checkpoint_path, kwargs, weights_only)
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, **arguments)

    def on_train_start(self) -> None:
        """Continue in the training data where the checkpoint was saved."""
        restore_place(self.trainer)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; with ``strict``, a checkpoint with other norm layers is refused in one line."""
        if strict:
            check_layers(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)
