"""Refit mixtures before they are used or saved."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.utils.hooks import RemovableHandle

from mn_lightning.callbacks._mixture_companion import MixtureCompanion
from mn_lightning.callbacks._saving import before_saving
from mn_lightning.callbacks.update_norms import updating_callbacks
from mn_lightning.layers.refit import copy_mixtures, mixture_layers, refit_mixtures
from mn_lightning.utils.distributed import all_processes


def _refit_if_far_behind(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    """Refit for a state dict that the user's own code takes, perhaps to save it, or to average it in every step.

    For the latter, refit at most once in ``queue_size`` batches. Nothing is done with several processes, because all of
    them would have to take part.
    """
    if all_processes().size == 1 and any(layer.queue.behind >= layer.queue.size for layer in mixture_layers(module)):
        refit_mixtures(module)


def _give_to_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    if updating_callbacks(trainer):
        return  # that callback gives averages mixtures of their own
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        average = callback._average_model if isinstance(callback, WeightAveraging) else None
        if average is not None:
            copy_mixtures(pl_module, average.module)


class GMMRefitCallback(MixtureCompanion):
    """Refit the stored mixtures of all MixtureNorm layers to their queues of recent batches before they are used.

    Nothing is evaluated or saved with a stale mixture. Layers that have seen batches since their last refit are
    refitted at the end of each training epoch; at the start of each validation (which runs before the epoch's end, or
    in the middle of an epoch), test and prediction; and before the Trainer saves a checkpoint. If you call the model's
    ``state_dict`` yourself in the middle of an epoch, the mixture may be up to ``queue_size`` batches old, and with
    several processes up to an epoch. To avoid that, call :func:`~mn_lightning.layers.refit.refit_mixtures` first, in
    all processes.

    Lightning's ``WeightAveraging`` and ``EMAWeightAveraging`` evaluate and save a second model, whose weights are an
    average. An average of mixtures means nothing, because each has its components in an order of its own. So the
    average model gets the mixtures of the current one, whatever ``use_buffers`` is. These fit its activations as long
    as the average follows the weights closely, which an average over a whole training does not. For such an average,
    add :class:`~mn_lightning.callbacks.UpdateNormsCallback`, which gives averages mixtures of their own, or call
    :func:`~mn_lightning.layers.update.update_norms` after the fit.

    Examples:
        >>> from mn_lightning.callbacks import NormSwapCallback, QueueResetCallback
        >>> callbacks = [NormSwapCallback(norm="mixture"), GMMRefitCallback(), QueueResetCallback()]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    purpose = "evaluation would use the statistics from before the training"

    def __init__(self) -> None:
        super().__init__()
        self._handle: RemovableHandle | None = None
        self._stop: Callable[[], None] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that everything saved from here on holds fresh mixtures."""
        super().on_fit_start(trainer, pl_module)
        self._remove_hooks()
        self._stop = before_saving(trainer, partial(refit_mixtures, pl_module))
        # A plain function, so that copies of the model do not copy the trainer with it.
        self._handle = pl_module.register_state_dict_pre_hook(_refit_if_far_behind)  # type: ignore[no-untyped-call]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse processes with different numbers of batches: one would wait for the others for ever.

        Raises:
            ValueError: in all processes.
        """
        batches = all_processes().gather(trainer.num_training_batches)
        if len(set(batches)) > 1:
            raise ValueError(
                f"the processes have {', '.join(map(str, batches))} training batches; all need the same number to "
                f"refit mixtures together: use a DistributedSampler, or limit_train_batches={min(batches)}"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refit; checkpoint callbacks run after this one."""
        refit_mixtures(pl_module)
        _give_to_averages(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refit, before an average of weights takes the model's place."""
        refit_mixtures(pl_module)
        _give_to_averages(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give averages of weights the mixtures that the model has just been refitted to."""
        # This also works if the average is in the checkpoint by now, because that holds the average's own tensors.
        _give_to_averages(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refit."""
        refit_mixtures(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refit."""
        refit_mixtures(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Refit once more, for a checkpoint that is saved because of the error; undo what was done to the module."""
        super().on_exception(trainer, pl_module, exception)
        # Other processes may not know of the error, and would not take part. The user has to see the first error.
        if self._handle is not None and all_processes().size == 1:
            with contextlib.suppress(Exception):
                refit_mixtures(pl_module)
                _give_to_averages(trainer, pl_module)
        self._remove_hooks()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo what was done to the module."""
        super().teardown(trainer, pl_module, stage)
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        if self._handle is not None and self._stop is not None:
            self._handle.remove()
            self._stop()
            self._handle = self._stop = None
