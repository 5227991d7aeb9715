"""Plugins for ``Trainer(plugins=[...])``."""

from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from mn_lightning.layers.refit import set_sync


class NormLayerSync(TorchSyncBatchNorm):
    """Let MixtureNorm, ModeNorm and BatchNorm layers treat the batches of all processes as one in training.

    It is for models that are built with these layers, because ``Trainer(sync_batchnorm=True)`` handles BatchNorm only.
    Where :class:`~mn_lightning.callbacks.NormSwapCallback` swaps the layers in, ``sync_batchnorm=True`` is enough. The
    plugin has no effect in evaluation, nor with one process.

    Examples:
        >>> from lightning import Trainer
        >>> trainer = Trainer(plugins=[NormLayerSync()], logger=False, enable_checkpointing=False)
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Turn synchronization on; returns the model with SyncBatchNorm in place of BatchNorm layers."""
        set_sync(model, True)
        return super().apply(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Turn synchronization off; returns the model with BatchNorm layers."""
        set_sync(model, False)
        return super().revert(model)
