"""What callbacks need of a Trainer and Lightning does not offer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]


def training_steps(trainer: Trainer) -> int:
    """Return the optimizer steps of the training so far: the generator's alone, where the module counts those.

    ``trainer.global_step`` counts the steps of all optimizers of a GAN; papers count ``module.generator_steps``.
    """
    steps: int = getattr(trainer.lightning_module, "generator_steps", trainer.global_step)
    return steps


def log_now(trainer: Trainer, values: dict[str, float], after_epoch: bool = False) -> None:
    """Log as Lightning's LearningRateMonitor does: at any step, also at the end, and once.

    ``LightningModule.log`` would write a value that belongs to one step only every ``log_every_n_steps``, or repeat it
    until the epoch ends, and is forbidden at the training's end.

    Args:
        trainer: whose loggers; its ``callback_metrics`` get the values too, for callbacks that monitor one.
        values: the same in all processes.
        after_epoch: whether the epoch's last batch has been counted, as it has in ``on_train_epoch_end``.
    """
    trainer.callback_metrics.update(
        {name: torch.tensor(value, device=trainer.strategy.root_device) for name, value in values.items()}
    )
    # Loggers count batches from 0; the last one of an epoch has been counted when the epoch's end is reached.
    step = trainer.fit_loop.epoch_loop._batches_that_stepped - after_epoch
    for logger in trainer.loggers:
        logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)


def is_last_epoch(trainer: Trainer) -> bool:
    """Whether the training ends after the epoch whose end has been reached, if nothing else ends it."""
    # The loop's own `done` prints that the training is over, and changes the epoch count.
    out_of_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    out_of_epochs = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
    return bool(trainer.should_stop or out_of_steps or out_of_epochs)


@contextmanager
def progress_bar(trainer: Trainer, total: int, title: str, unit: str) -> Iterator[Callable[[int], object]]:
    """Show a bar in process 0, if the trainer shows bars too, and give the function that advances it."""
    bar: Any = trainer.progress_bar_callback
    hidden = not trainer.is_global_zero or bar is None or not bar.is_enabled
    with tqdm(total=total, desc=title, unit=unit, leave=False, disable=hidden) as shown:
        yield shown.update
