"""The second validation is that of the weights with the statistics of torch's update_bn; the first one is as ever."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import classifier, digits, mixture_callbacks, network, trainer, weights_of
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from mn_lightning.callbacks import CurrentStatisticsCallback
from mn_lightning.models import ImageClassifier


def batches() -> list[tuple[Tensor, Tensor]]:
    data = digits()
    data.setup()
    return [(images[:100] * 3, labels[:100]) for images, labels in data.train_dataloader()][:3]


class Watch(Callback):
    """Works out both validations from the weights that each validation has."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []
        self.expected: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        images, labels = (torch.cat(parts) for parts in zip(*trainer.val_dataloaders, strict=True))
        values = {}
        for suffix in ("", "/current"):
            model = network()
            model.load_state_dict(pl_module.network.state_dict())
            if suffix:
                update_bn(batches(), model)
            logits = model.eval()(images)
            values[f"val_acc{suffix}"] = float((logits.argmax(1) == labels).float().mean())
            values[f"val_loss{suffix}"] = float(nn.functional.cross_entropy(logits, labels))
        self.expected.append(values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append({name: float(trainer.callback_metrics[name]) for name in self.expected[-1]})


@pytest.mark.parametrize("average", [False, True])
def test_both_are_logged(average: bool, tmp_path: Path) -> None:
    """Of averaged weights too, if these are validated."""
    watch = Watch()
    callbacks = [
        CurrentStatisticsCallback(loader=batches()),
        watch,
        *([EMAWeightAveraging(decay=0.8)] if average else []),
    ]
    trainer(tmp_path, callbacks).fit(classifier(), digits())
    assert len(watch.found) == 2
    for found, expected in zip(watch.found, watch.expected, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
        assert abs(found["val_loss"] - found["val_loss/current"]) > 0.01


def test_training_and_checkpoints_are_as_without(tmp_path: Path) -> None:
    states = []
    for more in ([], [CurrentStatisticsCallback(batches=2)]):
        model = classifier()
        model.network.insert(3, nn.Dropout(0.3))
        torch.manual_seed(5)
        folder = tmp_path / str(len(more))
        saver = ModelCheckpoint(folder, filename="last", save_weights_only=True)
        run = trainer(folder, [*mixture_callbacks(), *more, saver], enable_checkpointing=True, val_check_interval=2)
        run.fit(model, digits())
        saved = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        states.append([*weights_of(model).values(), *saved.values(), torch.rand(2)])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_it_can_be_monitored(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, monitor="val_acc/current", mode="max")
    run = trainer(tmp_path, [CurrentStatisticsCallback(), saver], enable_checkpointing=True)
    run.fit(classifier(), digits())
    assert saver.best_model_score is not None


def test_what_makes_the_optimizer_is_not_copied(tmp_path: Path) -> None:
    """The command line gives objects that hold the trainer, with generators in it."""

    class Maker:
        def __init__(self) -> None:
            self.cannot_be_copied = (number for number in range(3))

        def __call__(self, parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=0.1)

    run = trainer(tmp_path, [CurrentStatisticsCallback()], max_epochs=1)
    run.fit(ImageClassifier(network(), optimizer=Maker()), digits())
    assert "val_acc/current" in run.callback_metrics


class TwoLoaders(ImageClassifier):
    """Its validation takes the number of the loader, and logs a dictionary."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
        values = {"count": float(len(batch[0])), "loader": float(dataloader_idx), "batch": float(batch_idx)}
        self.log_dict(values, batch_size=1)


def test_every_loader_is_validated_as_far_as_it_was(tmp_path: Path) -> None:
    data = digits()
    data.setup()
    loaders = [data.val_dataloader(), data.val_dataloader()]
    model = TwoLoaders(network())
    run = trainer(tmp_path, [CurrentStatisticsCallback()], max_epochs=1, limit_val_batches=1, num_sanity_val_steps=0)
    run.fit(model, data.train_dataloader(), loaders)
    values = {name: float(value) for name, value in run.callback_metrics.items() if name.endswith("/current")}
    assert values == {
        f"{name}/dataloader_idx_{which}/current": value
        for which in range(2)
        for name, value in (("count", 256), ("loader", which), ("batch", 0))
    }
