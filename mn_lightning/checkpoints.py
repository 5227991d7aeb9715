"""Load models from checkpoints that were saved with swapped layers."""

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

    Use it in place of ``module_class.load_from_checkpoint(checkpoint_path, **kwargs)``, which would build the model
    with BatchNorm. The same layers are swapped, with the settings that the checkpoint holds. A checkpoint without
    swapped layers can be loaded too.

    Only numbers are taken from the file, whatever the class of the module: the file is read with ``weights_only=True``,
    its hyperparameters are taken as plain values, and no class that it names is imported or built.
    ``weights_only=False`` is for files that you trust: it loads them as Lightning does.

    Args:
        module_class: the LightningModule's class.
        checkpoint_path: a checkpoint that Lightning saved, also with ``save_weights_only=True``.
        weights_only: False only for a file that you trust.
        **kwargs: what ``LightningModule.load_from_checkpoint`` takes: ``map_location``, ``hparams_file``, ``strict``,
            and arguments of the class, such as ``network=CIFARConvNet()``.

    Returns:
        The model; its layers evaluate as they did when it was saved.

    Raises:
        ValueError: where :func:`~mn_lightning.swap.swap_as_saved` raises it, except that a checkpoint without a record
            is accepted; the file is not a checkpoint; or it names classes for arguments that are not given.

    Examples:
        >>> from mn_lightning.models import CIFARConvNet, ImageClassifier
        >>> load_from_checkpoint(ImageClassifier, "last.ckpt", network=CIFARConvNet())  # doctest: +SKIP
    """
    arguments = arguments_for_loading(checkpoint_path, kwargs, weights_only)
    with _swap_before_weights(module_class):
        return module_class.load_from_checkpoint(checkpoint_path, **arguments)  # type: ignore[arg-type]


@contextmanager
def _swap_before_weights(module_class: type[LightningModule]) -> Iterator[None]:
    """Make models of the class swap their layers when Lightning calls ``on_load_checkpoint``.

    Lightning builds the model from the checkpoint's hyperparameters, calls this method, and loads the weights, all in
    one function: this call is the only moment at which the model exists and its weights have not been loaded yet.
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
