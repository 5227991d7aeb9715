"""Empty the queues at the start of each epoch."""

from lightning.pytorch import LightningModule, Trainer

from mn_lightning.callbacks._mixture_companion import MixtureCompanion
from mn_lightning.layers.refit import reset_queues


class QueueResetCallback(MixtureCompanion):
    """Empty the queues of all MixtureNorm layers at the start of each training epoch (Section 3.2 of the paper).

    Examples:
        >>> from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback
        >>> callbacks = [NormSwapCallback(norm="mixture"), GMMRefitCallback(), QueueResetCallback()]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    purpose = "mixtures would be fitted to batches of earlier epochs too"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Empty the queues."""
        reset_queues(pl_module)
