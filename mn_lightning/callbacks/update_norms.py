"""Take statistics of the current weights before anything is evaluated or saved."""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from mn_lightning.callbacks._mixture_companion import MixtureCompanion
from mn_lightning.callbacks._own_batches import OwnBatches, forward_pass, training_modes
from mn_lightning.callbacks._saving import before_saving
from mn_lightning.callbacks._trainer import log_now
from mn_lightning.layers.refit import refit_mixtures
from mn_lightning.layers.update import update_norms
from mn_lightning.utils.restore import rng_untouched

_REMEMBERED = 8
"""Number of states whose statistics are remembered as fresh: enough for all averages that take turns in one step."""


class UpdateNormsCallback(MixtureCompanion):
    """Take the statistics of all norms from the current weights before each validation, checkpoint and FID evaluation.

    Running averages and mixtures of recent batches belong to the weights of the last steps, which were still changing.
    This callback sends a few batches through the network before anything is evaluated or saved. BatchNorm, ModeNorm and
    MixtureNorm get the statistics of these batches alone: see :func:`~mn_lightning.layers.update.update_norms`. Then a
    difference between two norms comes from the trained weights, and not from statistics of different age.

    The batches are drawn from the training data in an order of their own. The training does not change: order, random
    states, modes and weights are the same as without the callback. Nothing is done in the sanity check.

    All weights that are evaluated or saved get statistics of their own. That includes averages of weights
    (``EMAWeightAveraging``, ``WeightAveraging``, ``StochasticWeightAveraging``), and the weights that a schedule-free
    optimizer uses in evaluation. Frozen layers stay as they are.

    The module is called with the first tensor of each batch. If its training does something else, the module needs a
    method ``statistics_step(batch)`` that runs the forward passes of a training step, as
    :class:`~mn_lightning.models.DCGAN` has.

    ``update_norms/seconds`` is logged at the end of each epoch: the time of all updates in this fit so far. An update
    costs the forward passes of ``batches`` training steps. With several processes, each of them takes part.

    Args:
        batches: number of batches in each process; fewer if the training data has fewer.
        loader: source of the batches: a DataLoader, or any iterable, of which the first ``batches`` are taken each
            time. None draws from the dataset of the Trainer's training data.
        seed: of the order in which they are drawn.

    Attributes:
        seconds: time of all updates since the training's start.
        updates: number of updates since the training's start.

    Raises:
        ValueError: an argument is out of range; at the start of the training, the training data cannot be read in
            another order.

    Examples:
        >>> from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
        >>> callbacks = [NormSwapCallback(), GMMRefitCallback(), QueueResetCallback(), UpdateNormsCallback(batches=20)]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    def __init__(self, batches: int = 20, loader: Any = None, seed: int = 0) -> None:
        super().__init__()
        self._batches = OwnBatches("UpdateNormsCallback", batches, loader, seed)
        self.seconds = 0.0
        self.updates = 0
        self._fresh: deque[tuple[float, ...]] = deque(maxlen=_REMEMBERED)
        self._stop: Callable[[], None] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that everything that is saved from now on holds fresh statistics."""
        super().on_fit_start(trainer, pl_module)
        self._remove_hook()
        self._stop = before_saving(trainer, partial(self.update_all, trainer, pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the source of the batches."""
        self.seconds, self.updates = 0.0, 0
        self._fresh.clear()
        self._batches.check(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Update before the first batch, because averages have taken the place of the current weights by then."""
        if batch_idx == 0 and dataloader_idx == 0:
            self.update(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time that the updates have taken."""
        log_now(trainer, {"update_norms/seconds": self.seconds}, after_epoch=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update once more, so that the model ends with statistics of its final weights."""
        self.update_all(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo what was done to the module."""
        super().teardown(trainer, pl_module, stage)
        self._remove_hook()

    def update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take new statistics for the weights that ``pl_module`` holds, unless they are fresh.

        Does nothing outside of a fit, and before its first step. Every process must call it.
        """
        trained = trainer.state.fn == TrainerFn.FITTING and trainer.fit_loop.total_batch_idx >= 0
        if not trained or trainer.sanity_checking:
            return
        needed = _fingerprint(pl_module) not in self._fresh
        if not trainer.strategy.reduce_boolean_decision(needed, all=False):
            return
        started = time.monotonic()
        # Tensors that are made in inference mode could not be written to by the training.
        with torch.inference_mode(False), rng_untouched(pl_module.device), training_modes(trainer, pl_module):
            batches = self._batches.draw(trainer, pl_module)
            update_norms(pl_module, batches, lambda batch: forward_pass(trainer, pl_module, batch))
        self._fresh.append(_fingerprint(pl_module))
        self.updates += 1
        self.seconds += time.monotonic() - started

    def update_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do :meth:`update`, and the same for averages of weights that are saved beside the current ones."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                callback._swap_models(pl_module)
                try:
                    self.update(trainer, pl_module)
                finally:
                    callback._swap_models(pl_module)
        self.update(trainer, pl_module)

    def _remove_hook(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None


def updating_callbacks(trainer: Trainer) -> list[UpdateNormsCallback]:
    """Return the trainer's callbacks of this class: usually one or none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, UpdateNormsCallback)]


def freshen(trainer: Trainer, pl_module: LightningModule) -> None:
    """Bring the statistics up to date before ``pl_module`` is evaluated: with the callback above, or with a refit."""
    for callback in updating_callbacks(trainer):
        callback.update(trainer, pl_module)
    refit_mixtures(pl_module)


def _fingerprint(module: nn.Module) -> tuple[float, ...]:
    """Numbers that change with any weight or statistic; a state that was put aside and restored has its old ones."""
    values = [*module.parameters(), *module.buffers()]
    sums = [value.detach().float().sum() for value in values if value.is_floating_point()]
    return tuple(torch.stack(sums).tolist()) if sums else ()
