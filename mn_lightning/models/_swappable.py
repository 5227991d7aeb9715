"""What the LightningModules of this package share: what they do with a checkpoint beside what Lightning does."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from mn_lightning.swap.check import check_layers
from mn_lightning.utils.loaders import restore_place


class SwappableModule(LightningModule):
    """A LightningModule that refuses the weights of other norm layers in one line, with or without callbacks.

    A run that is resumed in the middle of an epoch goes on with the next batch, as
    :func:`~mn_lightning.utils.loaders.restore_place` sees to.
    """

    def on_train_start(self) -> None:
        """Go on in the training data where the checkpoint was saved."""
        restore_place(self.trainer)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; with ``strict``, a checkpoint with other norm layers is refused in one line."""
        if strict:
            check_layers(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)
