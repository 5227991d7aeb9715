"""Run a checkpoint's model on validation data, or let it generate, and record the inputs of its layers."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from mn_lightning.callbacks import NormSwapCallback
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.inspection.recorder import Recorder, choose_layers
from mn_lightning.swap.record import settings_in_checkpoint, unsaved
from mn_lightning.swap.saved import swap_as_recorded

SAMPLES_AT_A_TIME = 64


def collect(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    ckpt_path: str,
    content: dict[str, Any],
    layer: str | None,
    samples: int,
) -> Recorder:
    """Record the inputs of the layers.

    The layers are swapped as the checkpoint has recorded. If its record is incomplete, for example because an
    activation was given as a function, the trainer's NormSwapCallbacks swap them.

    Args:
        trainer: runs the validation; it logs and saves nothing.
        model: as it was at the start of the training.
        datamodule: its validation data are used.
        ckpt_path: file of the checkpoint.
        content: content of that file.
        layer: which layers, as under ``layers`` of NormSwapCallback; None for all.
        samples: number of samples.

    Raises:
        InspectionError: the model has no such layers, or has neither a validation step nor a method that generates.
    """
    # This is not a run whose results anybody keeps.
    _leave_out(trainer, SaveConfigCallback, Checkpoint)
    trainer.logger = None
    if _swap_as_in(content, model):
        _leave_out(trainer, NormSwapCallback)
    if is_overridden("validation_step", model):
        listener = _ValidationListener(layer, samples)
        trainer.callbacks.append(listener)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")  # callbacks are left out
            trainer.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=True)
        return listener.recorder
    if callable(getattr(model, "sample", None)):
        return _generate(trainer, model, content, layer, samples)
    raise InspectionError(
        f"{type(model).__name__} has neither validation_step nor sample; inspect takes a module with one of them"
    )


def _leave_out(trainer: Trainer, *kinds: type[Callback]) -> None:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [callback for callback in callbacks if not isinstance(callback, kinds)]  # type: ignore[attr-defined]


def _swap_as_in(content: dict[str, Any], model: LightningModule) -> bool:
    """Swap the layers as they were when the checkpoint was saved, if it has recorded that."""
    recorded = settings_in_checkpoint(content)
    if not recorded or any(unsaved(settings) for settings in recorded.values()):
        return False
    try:
        swap_as_recorded(model, recorded)
    except ValueError as error:
        raise InspectionError(f"the checkpoint belongs to another model: {error}") from error
    return True


class _ValidationListener(Callback):
    """Records during a validation, and ends it when there are enough samples."""

    def __init__(self, layer: str | None, samples: int) -> None:
        self.layer = layer
        self.recorder = Recorder({}, samples)
        self._listening = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # By now, other callbacks have swapped the layers.
        self.recorder = Recorder(choose_layers(pl_module, self.layer), self.recorder.samples)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listening.enter_context(self.recorder.listening())

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if self.recorder.seen >= self.recorder.samples:
            raise StopIteration  # Lightning ends the validation then
        self.recorder.begin_batch()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: object
    ) -> None:
        tensors = list(tensors_in(batch))
        images = next((tensor for tensor in tensors if tensor.dim() == 4), None)
        self.recorder.end_batch(len(tensors[0]) if tensors else 0, images)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._listening.close()


def _generate(
    trainer: Trainer, model: LightningModule, content: dict[str, Any], layer: str | None, samples: int
) -> Recorder:
    load_content(trainer, model, content)
    recorder = Recorder(choose_layers(model, layer), samples)
    with torch.no_grad(), recorder.listening():
        while recorder.seen < samples:
            recorder.begin_batch()
            images = model.sample(min(SAMPLES_AT_A_TIME, samples - recorder.seen))  # type: ignore[operator]
            recorder.end_batch(len(images), images)
    return recorder


def load_content(trainer: Trainer, model: LightningModule, content: dict[str, Any]) -> None:
    """Load a checkpoint into a model whose layers are as they were at the start of the training.

    They are swapped as in :func:`collect`. Afterwards the model is on the trainer's device, in evaluation mode.

    Args:
        trainer: its NormSwapCallbacks swap layers if the checkpoint has no complete record.
        model: is changed in place.
        content: content of the checkpoint's file.

    Raises:
        InspectionError: the model has no such layers.
        RuntimeError: the weights belong to another model.
    """
    if not _swap_as_in(content, model):
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, NormSwapCallback):
                callback.setup(trainer, model, "predict")
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"], strict=model.strict_loading)
    model.to(trainer.strategy.root_device).eval()


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Return the tensors of a batch, in order: the batch itself, or those in its lists, tuples and dicts."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict):
        yield from (tensor for part in batch.values() for tensor in tensors_in(part))
    elif isinstance(batch, (list, tuple)):
        yield from (tensor for part in batch for tensor in tensors_in(part))
