"""What the LightningModules of this package share: they say which norm layers a checkpoint has."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from mn_lightning.swap.check import check_layers


class SwappableModule(LightningModule):
    """A LightningModule that refuses the weights of other norm layers in one line, with or without callbacks."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does; with ``strict``, a checkpoint with other norm layers is refused in one line."""
        if strict:
            check_layers(self, state_dict)
        return super().load_state_dict(state_dict, strict, assign)
