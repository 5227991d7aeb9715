"""Layers whose forward pass is run a second time, in the backward pass."""

from pathlib import Path

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, trainer, weights_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mn_lightning.callbacks import NormSwapCallback


class Checkpointed(nn.Sequential):
    passes = 0

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = checkpoint(self.twice, input, use_reentrant=False)
        return output

    def twice(self, input: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(input)


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group"])
def test_a_fit_is_that_without_checkpointing(norm: str, tmp_path: Path) -> None:
    states = []
    for kind in (nn.Sequential, Checkpointed):
        model = classifier()
        model.network = kind(*model.network)
        callbacks = [NormSwapCallback("all", norm), *mixture_callbacks()[1:]]
        trainer(tmp_path, callbacks, max_epochs=1, limit_val_batches=0).fit(model, digits())
        states.append(weights_of(model))
        for layer in mixtures(model):
            assert layer.queue.pushes == layer.num_batches_tracked == BATCHES
    assert model.network.passes == 2 * BATCHES
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)
