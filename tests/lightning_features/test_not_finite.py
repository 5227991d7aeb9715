"""A loss that goes NaN is reported by Lightning's own means, and leaves the last mixtures as they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping


class Spoil(Callback):
    """Puts a NaN into a batch of the second epoch, after which all weights are NaN."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == BATCHES + 2:
            batch[0][0, 0, 0, 0] = float("nan")


def test_early_stopping_sees_it(tmp_path: Path) -> None:
    model = classifier()
    stopping = EarlyStopping("val_loss", check_finite=True)
    run = trainer(tmp_path, [*mixture_callbacks(), Spoil(), stopping], max_epochs=5)
    run.fit(model, digits())
    assert run.current_epoch == 2
    assert "is not finite" in stopping.stopping_reason_message
    assert model.network[0].weight.isnan().any()
    for layer in mixtures(model):
        assert layer.queue.pushes == 2  # those before it
        assert all(value.isfinite().all() for value in layer.mixture)


def test_detect_anomaly_sees_it(tmp_path: Path) -> None:
    model = classifier()
    run = trainer(tmp_path, [*mixture_callbacks(), Spoil()], detect_anomaly=True)
    with pytest.warns(UserWarning, match="Error detected"), pytest.raises(RuntimeError, match="returned nan values"):
        run.fit(model, digits())
    for layer in mixtures(model):
        assert layer.queue.pushes == 2
        assert all(value.isfinite().all() for value in layer.mixture)
        assert layer.refit()
        assert all(value.isfinite().all() for value in layer.mixture)


def test_an_epoch_without_a_finite_batch_leaves_the_mixture(tmp_path: Path) -> None:
    model = classifier()
    run = trainer(tmp_path, [*mixture_callbacks(), Spoil()], max_epochs=2, num_sanity_val_steps=0)
    run.fit(model, digits())
    last = [value.clone() for layer in mixtures(model) for value in layer.mixture]
    run.fit_loop.max_epochs = 4
    run.fit(model, digits())
    assert run.global_step == 4 * BATCHES
    for value, expected in zip((v for layer in mixtures(model) for v in layer.mixture), last, strict=True):
        assert torch.equal(value, expected)
