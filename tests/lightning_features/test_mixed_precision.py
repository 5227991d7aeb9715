"""16-mixed on a CPU: autocast to float16, and a scaler that leaves out the steps whose gradients overflow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, mixtures, trainer, weights_of
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback

OVERFLOW = 2


class Overflow(Callback):
    """Makes one batch too large for float16, and watches what it does."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == OVERFLOW:
            batch[0].mul_(1e6)
        self.keep(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.keep(pl_module)

    def keep(self, model: LightningModule) -> None:
        names = ("num_batches_tracked", "running_mean", "running_var")  # which BatchNorm changes, too
        state = {**weights_of(model), **{name: value.clone() for name, value in model.network.named_buffers()}}
        self.states.append({name: value for name, value in state.items() if not name.endswith(names)})


def fit(folder: Path, norm: str, *callbacks: Callback, **arguments: Any) -> tuple[LightningModule, MixedPrecision]:
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    model = classifier()
    swap = [NormSwapCallback("all", norm, **arguments), GMMRefitCallback(), QueueResetCallback()]
    trainer(folder, [*swap, *callbacks], max_epochs=1, plugins=[precision]).fit(model, digits())
    return model, precision


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group"])
def test_a_fit(norm: str, tmp_path: Path) -> None:
    model, precision = fit(tmp_path, norm)
    assert precision.scaler.get_scale() == 2.0**10  # nothing overflowed
    before = weights_of(classifier())
    after = weights_of(model)
    assert not torch.equal(after["0.weight"], before["0.weight"])
    for value in after.values():
        assert value.isfinite().all()


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_a_batch_that_overflows_leaves_no_trace(granularity: str, tmp_path: Path) -> None:
    watch = Overflow()
    model, precision = fit(tmp_path, "mixture", watch, granularity=granularity)
    assert precision.scaler.get_scale() == 2.0**9  # it has overflowed
    changed = [
        any(not torch.equal(before[name], after[name]) for name in before)
        for before, after in zip(watch.states[::2], watch.states[1::2], strict=True)
    ]
    assert changed == [batch != OVERFLOW for batch in range(BATCHES)]
    for layer in mixtures(model):
        assert layer.queue.pushes == BATCHES - 1
        assert all(buffer.isfinite().all() for buffer in layer.buffers())
