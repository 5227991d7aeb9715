"""What callbacks need from a Trainer but Lightning does not offer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]

from mn_lightning.layers.refit import copy_mixtures


def optimizer_steps(trainer: Trainer) -> int:
    """Return ``trainer.global_step``, or the number of batches if the former does not count.

    In manual optimization, Lightning does not see the steps of an optimizer that is not one of its own wrappers.
    """
    if trainer.global_step == 0 and not trainer.lightning_module.automatic_optimization:
        return batches(trainer)
    return trainer.global_step


def training_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of the training so far: only the generator's if the module counts them.

    :func:`optimizer_steps` counts the steps of all optimizers of a GAN; papers count ``module.generator_steps``.
    """
    steps: int = getattr(trainer.lightning_module, "generator_steps", optimizer_steps(trainer))
    return steps


def batches(trainer: Trainer) -> int:
    """Return the number of training batches so far, including the current one."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def training_data(trainer: Trainer) -> Any:
    """Return the training's loader, also in a stage that does not train; None if there is none."""
    if trainer.train_dataloader is not None or trainer.state.fn == TrainerFn.FITTING:
        return trainer.train_dataloader
    datamodule, module = trainer.datamodule, trainer.lightning_module  # type: ignore[attr-defined]
    if datamodule is not None:
        datamodule.setup("fit")
        return datamodule.train_dataloader()
    return module.train_dataloader() if is_overridden("train_dataloader", module) else None


def is_new_fit(trainer: Trainer, stage: str) -> bool:
    """Whether, in ``setup``, a new fit begins, and not the continuation of the same trainer's earlier fit.

    The content of a checkpoint is loaded after ``setup``.
    """
    return stage == "fit" and batches(trainer) == 0


def is_validation_of_fit(trainer: Trainer) -> bool:
    """Whether a validation is part of a training, and not the sanity check before it."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def log_now(trainer: Trainer, values: dict[str, float], after_epoch: bool = False) -> None:
    """Log as Lightning's LearningRateMonitor does: at any step, even after the last one, and once.

    ``LightningModule.log`` would write a value that belongs to one step only every ``log_every_n_steps``, or repeat it
    until the epoch ends, and is forbidden at the training's end.

    Args:
        trainer: its loggers get the values, and also its ``callback_metrics``, for callbacks that monitor one.
        values: by name, the same in all processes.
        after_epoch: whether the epoch's last batch has already been counted, as in ``on_train_epoch_end``.
    """
    trainer.callback_metrics.update(
        {name: torch.tensor(value, device=trainer.strategy.root_device) for name, value in values.items()}
    )
    # Loggers count batches from 0; the last one of an epoch has been counted when the epoch's end is reached.
    step = trainer.fit_loop.epoch_loop._batches_that_stepped - after_epoch
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether the training ends with the epoch that has just ended, if nothing else ends it earlier."""
    # The loop's own `done` prints that the training is over, and changes the epoch count.
    out_of_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    out_of_epochs = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    return bool(trainer.should_stop or out_of_steps or out_of_epochs)


@contextmanager
def progress_bar(trainer: Trainer, total: int, title: str, unit: str) -> Iterator[Callable[[int], object]]:
    """Show a progress bar in process 0, if the trainer shows bars too, and yield the function that advances it."""
    bar: Any = trainer.progress_bar_callback
    hidden = not trainer.is_global_zero or bar is None or not bar.is_enabled
    display = bar.progress if isinstance(bar, RichProgressBar) else None
    if display is not None and not hidden:
        # Rich repaints its own lines, so anything else that is written meanwhile stays on the screen.
        task = display.add_task(title, total=total)

        def advance(count: int) -> None:
            display.advance(task, count)
            bar.refresh()

        try:
            yield advance
        finally:
            display.remove_task(task)
        return
    with tqdm(total=total, desc=title, unit=unit, leave=False, disable=hidden) as shown:
        yield shown.update


def check_behind_averages(trainer: Trainer, callback: Callback) -> None:
    """Refuse a callback that comes before one that averages weights: it would see the average of an earlier batch.

    Raises:
        ValueError: says which two callbacks to exchange.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for other in callbacks[callbacks.index(callback) :]:
        if isinstance(other, (WeightAveraging, StochasticWeightAveraging)):
            one, average = type(callback).__name__, type(other).__name__
            raise ValueError(
                f"{one} stands before {average} in the trainer's callbacks and would not see the averaged weights; "
                f"put {average} first"
            )


def averages_at_the_end(trainer: Trainer) -> bool:
    """Whether an average replaces the weights when the training is over, as with StochasticWeightAveraging."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks)


@contextmanager
def saved_weights(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Give ``module`` the weights that a checkpoint would hold as the model's, and restore its own weights afterwards.

    These are its own weights, or the average that a WeightAveraging callback keeps.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
    if not averages or averages[-1]._average_model is None:
        yield
        return
    (*_, average) = averages
    assert average._average_model is not None
    copy_mixtures(module, average._average_model.module)
    average._swap_models(module)
    try:
        yield
    finally:
        average._swap_models(module)


def saves_by(trainer: Trainer, names: tuple[str, ...], hook: str) -> bool:
    """Whether a ModelCheckpoint that monitors one of ``names``, or a name below it, is about to save.

    Args:
        trainer: its checkpoint callbacks are looked at, which Lightning calls after all other callbacks.
        names: of logged values; ``fid`` includes ``fid/best``.
        hook: the hook of callbacks that is being called.
    """
    return any(
        isinstance(callback, ModelCheckpoint)
        and callback.monitor is not None
        and callback.monitor.split("/")[0] in names
        and not callback._should_skip_saving_checkpoint(trainer)
        and _is_due(callback, trainer, hook)
        for callback in trainer.checkpoint_callbacks
    )


def _is_due(callback: ModelCheckpoint, trainer: Trainer, hook: str) -> bool:
    if hook == "on_train_batch_end":
        return callback._every_n_train_steps >= 1 and trainer.global_step % callback._every_n_train_steps == 0
    if callback._should_save_on_train_epoch_end(trainer) != (hook == "on_train_epoch_end"):
        return False
    if hook == "on_validation_end" and callback._defer_save_until_validation:
        return True
    return callback._every_n_epochs >= 1 and (trainer.current_epoch + 1) % callback._every_n_epochs == 0
