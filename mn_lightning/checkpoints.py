"""Models back from checkpoints that were saved with swapped layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, TypeVar

from lightning.pytorch import LightningModule

from mn_lightning.swap.record import settings_in_checkpoint
from mn_lightning.swap.saved import swap_as_recorded
from mn_lightning.utils.checkpoint_file import arguments_for_loading

_Module = TypeVar("_Module", bound=LightningModule)


def load_from_checkpoint(
    module_class: type[_Module],
    checkpoint_path: str | PathLike[str],
    weights_only: bool | None = None,
    **kwargs: Any,
) -> _Module:
    """Load a model whose layers had been swapped when its checkpoint was saved.

    Takes the place of ``module_class.load_from_checkpoint(checkpoint_path, **kwargs)``, which would build the model
    with BatchNorm. The layers are swapped as they were, with the settings that the checkpoint holds. A checkpoint
    without swapped layers is loaded as well.

    The file brings numbers only, of whatever class the module is: it is read with ``weights_only=True``, its
    hyperparameters are taken as plain values, and no class that it names is imported or built. ``weights_only=False``
    is for files that you trust, and does what Lightning does.

    Args:
        module_class: the LightningModule's class.
        checkpoint_path: a checkpoint of Lightning's, also one saved with ``save_weights_only=True``.
        weights_only: False trusts the file.
        **kwargs: what ``LightningModule.load_from_checkpoint`` takes: ``map_location``, ``hparams_file``, ``strict``,
            and arguments of the class, as ``network=CIFARConvNet()``.

    Returns:
        The model, with MixtureNorm layers that evaluate as they did.

    Raises:
        ValueError: as :func:`~mn_lightning.swap.swap_as_saved`, but for a checkpoint without a record; the file is no
            checkpoint, or names classes for arguments that are not given.

    Examples:
        >>> from mn_lightning.models import CIFARConvNet, ImageClassifier
        >>> load_from_checkpoint(ImageClassifier, "last.ckpt", network=CIFARConvNet())  # doctest: +SKIP
    """
    arguments = arguments_for_loading(checkpoint_path, kwargs, weights_only)
    with _swap_before_weights(module_class):
        return module_class.load_from_checkpoint(checkpoint_path, **arguments)  # type: ignore[arg-type]


@contextmanager
def _swap_before_weights(module_class: type[LightningModule]) -> Iterator[None]:
    """Let models of the class swap their layers when Lightning calls ``on_load_checkpoint``.

    Lightning builds the model from the checkpoint's hyperparameters, calls this method, and loads the weights, all in
    one function: the call is the only moment at which there is a model whose weights are yet to come.
    """
    own = module_class.on_load_checkpoint
    inherited = "on_load_checkpoint" not in vars(module_class)

    def swap_first(model: LightningModule, checkpoint: dict[str, Any]) -> None:
        swap_as_recorded(model, settings_in_checkpoint(checkpoint))
        own(model, checkpoint)

    module_class.on_load_checkpoint = swap_first  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if inherited:
            del module_class.on_load_checkpoint
        else:
            module_class.on_load_checkpoint = own  # type: ignore[method-assign]
