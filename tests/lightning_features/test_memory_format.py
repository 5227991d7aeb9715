"""A network in channels_last stays in it, with any norm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import classifier, digits, trainer
from lightning.pytorch import Callback
from torch import Tensor, nn

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group"])
def test_a_fit_in_channels_last(norm: str, tmp_path: Path) -> None:
    formats: list[bool] = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        formats.extend(t.is_contiguous(memory_format=torch.channels_last) for t in (*inputs, output))

    class Watch(Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.to(memory_format=torch.channels_last)
            pl_module.network[1].register_forward_hook(note)

    model = classifier()
    model.network[0] = nn.Conv2d(1, 6, 3, stride=2).to(memory_format=torch.channels_last)
    swap = [NormSwapCallback("all", norm), GMMRefitCallback(), QueueResetCallback()]
    trainer(tmp_path, [*swap, Watch()], max_epochs=1, limit_val_batches=0).fit(model, digits())
    assert formats == [True] * len(formats) != []
