"""Models back from checkpoints that were saved with swapped layers."""

from os import PathLike
from typing import Any, TypeVar

from lightning.pytorch import LightningModule

from mn_lightning.swap.record import RECORD, recorded_settings
from mn_lightning.swap.saved import swap_as_recorded

_Module = TypeVar("_Module", bound=LightningModule)


def load_from_checkpoint(module_class: type[_Module], checkpoint_path: str | PathLike[str], **kwargs: Any) -> _Module:
    """Load a model whose layers had been swapped when its checkpoint was saved.

    Takes the place of ``module_class.load_from_checkpoint(checkpoint_path, **kwargs)``, which would build the model
    with BatchNorm. The layers are swapped as they were, with the settings that the checkpoint holds. A checkpoint
    without swapped layers is loaded as well.

    Args:
        module_class: the LightningModule's class.
        checkpoint_path: a checkpoint of Lightning's, also one saved with ``save_weights_only=True``.
        **kwargs: what ``LightningModule.load_from_checkpoint`` takes: ``map_location``, ``hparams_file``, ``strict``,
            ``weights_only``, and arguments of the class, as ``network=CIFARConvNet()``.

    Returns:
        The model, with MixtureNorm layers that evaluate as they did.

    Raises:
        ValueError: as :func:`~mn_lightning.swap.swap_as_saved`, but for a checkpoint without a record.

    Examples:
        >>> from mn_lightning.models import CIFARConvNet, ImageClassifier
        >>> load_from_checkpoint(ImageClassifier, "last.ckpt", network=CIFARConvNet())  # doctest: +SKIP
    """

    class Swapped(module_class):  # type: ignore[misc, valid-type]
        # The last that Lightning calls before it loads the weights.
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            # Sharded strategies and WeightAveraging build state dicts of their own, without metadata; NormSwapCallback
            # is not asked where only weights are saved.
            recorded = checkpoint.get(RECORD) or recorded_settings(checkpoint["state_dict"])
            swap_as_recorded(self, recorded)
            super().on_load_checkpoint(checkpoint)

    # In messages. Not so __qualname__: LightningCLI looks for classes by their names, and leaves out local ones.
    Swapped.__name__ = module_class.__name__
    model = Swapped.load_from_checkpoint(checkpoint_path, **kwargs)
    model.__class__ = module_class
    return model  # type: ignore[no-any-return]
