"""What callbacks need of a Trainer and Lightning does not offer."""

import torch
from lightning.pytorch import Trainer


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
