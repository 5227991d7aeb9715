"""What FIDCallback and SampleGridCallback look at is what a checkpoint saves, and when it does."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import trainer
from helpers.tiny_generator import Generator, fid, loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from PIL import Image
from torch import Tensor, nn

from mn_lightning import MixtureNorm
from mn_lightning.callbacks import GMMRefitCallback, MixtureMonitor, SampleGridCallback

NAME = "fd_features"
STEPS = 3  # in an epoch


class Frozen(Generator):
    """Learns nothing: what is measured of it is what it was given."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def on_train_start(self) -> None:
        self.eval()


class Validated(Generator):
    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", (self.sample(len(batch[0])) - batch[0]).square().mean())


class RawOptimizer(Generator):
    """Steps an optimizer that Lightning does not see stepping."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network[1] = MixtureNorm(16, n_components=2)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return super().sample(n)

    def training_step(self, batch: Any) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward((self.sample(len(batch[0])) - batch[0]).square().mean())
        optimizer.step()


def distance(folder: Path, state_dict: dict[str, Tensor], model: type[Generator] = Frozen) -> float:
    """What FIDCallback measures of these weights, when nothing else is about."""
    alone, callback = model(), fid(folder)
    alone.load_state_dict(state_dict)
    trainer(folder, [callback], max_epochs=1).fit(alone, loader())
    return callback.values[NAME]


def checkpoints(folder: Path, **arguments: Any) -> ModelCheckpoint:
    options = {"filename": "{step}-{" + NAME + ":.5f}", "save_top_k": -1, "monitor": NAME}
    return ModelCheckpoint(folder / "checkpoints", **{**options, **arguments})


def saved(folder: Path) -> dict[int, tuple[float, dict[str, Any]]]:
    """Step to the distance in the file's name and its content."""
    found = {}
    for path in (folder / "checkpoints").iterdir():
        step, _, value = path.stem.removeprefix("step=").partition(f"-{NAME}=")
        found[int(step)] = float(value), torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("every_n_steps", [None, 2])
def test_with_an_average_of_weights_the_average_is_measured(tmp_path: Path, every_n_steps: int | None) -> None:
    torch.manual_seed(3)
    model = Generator()
    average, callback = EMAWeightAveraging(decay=0.9), fid(tmp_path, every_n_steps=every_n_steps)
    save = checkpoints(tmp_path, every_n_train_steps=every_n_steps)
    trainer(tmp_path, [average, callback, save], enable_checkpointing=True).fit(model, loader())
    files = saved(tmp_path)
    assert sorted(files) == ([3, 6] if every_n_steps is None else [2, 4, 6])
    for value, content in files.values():
        assert value == pytest.approx(distance(tmp_path, content["state_dict"]), abs=2e-5)
        assert value != pytest.approx(distance(tmp_path, content["current_model_state"]), abs=1e-3)


def test_the_training_does_not_notice_that_the_average_was_measured(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [fid(tmp_path, every_n_steps=1)]):
        torch.manual_seed(3)
        model, average = Generator(), EMAWeightAveraging(decay=0.9)
        last = checkpoints(tmp_path / str(len(callbacks)), monitor=None, filename="last", save_top_k=1)
        trainer(tmp_path, [average, *callbacks, last], enable_checkpointing=True).fit(model, loader())
        content = torch.load(last.best_model_path, weights_only=True)
        states.append({**content["state_dict"], **{f"raw {n}": x for n, x in content["current_model_state"].items()}})
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_an_average_has_the_mixtures_that_are_saved_with_it(tmp_path: Path) -> None:
    class Mixed(Generator):
        def __init__(self) -> None:
            super().__init__()
            self.network[1] = MixtureNorm(16, n_components=2)

    class MixedAndFrozen(Mixed, Frozen):
        pass

    torch.manual_seed(3)
    callbacks = [GMMRefitCallback(), EMAWeightAveraging(decay=0.9), fid(tmp_path), checkpoints(tmp_path)]
    trainer(tmp_path, callbacks, enable_checkpointing=True).fit(Mixed(), loader())
    for value, content in saved(tmp_path).values():
        assert value == pytest.approx(distance(tmp_path, content["state_dict"], MixedAndFrozen), abs=2e-5)


def test_weights_that_are_averaged_at_the_end_are_measured_then(tmp_path: Path) -> None:
    class Plain(Generator):
        def __init__(self) -> None:
            super().__init__()
            self.network[1] = nn.Identity()  # with BatchNorm there would be an epoch more, in which it is refreshed

    class PlainAndFrozen(Plain, Frozen):
        pass

    torch.manual_seed(3)
    callback, model = fid(tmp_path), Plain()
    average = StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=1)
    values: list[float] = []

    class Watch(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            values.append(float(trainer.callback_metrics[NAME]))

    trainer(tmp_path, [average, callback, Watch()], max_epochs=3).fit(model, loader())
    final = distance(tmp_path, model.state_dict(), PlainAndFrozen)
    assert callback.values[NAME] == pytest.approx(final, rel=1e-5)
    assert values[-1] != pytest.approx(final, rel=1e-3)


@pytest.mark.parametrize("average", [EMAWeightAveraging(), StochasticWeightAveraging(0.1)], ids=["EMA", "SWA"])
@pytest.mark.parametrize("make", [fid, lambda folder: SampleGridCallback()], ids=["FID", "grid"])
def test_an_average_that_comes_too_late_is_refused(tmp_path: Path, average: Callback, make: Any) -> None:
    class Sampled(Generator):
        def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
            return super().sample(n)

    callback = make(tmp_path)
    names = type(callback).__name__, type(average).__name__
    with pytest.raises(ValueError, match=f"^{names[0]} stands before {names[1]} in .*; put {names[1]} first$"):
        trainer(tmp_path, [callback, average]).fit(Sampled(), loader())


def test_a_grid_shows_the_average(tmp_path: Path) -> None:
    class Constant(LightningModule):
        """Gray images, whose shade is the weight: 0.8, 0.6, 0.4 after three steps."""

        def __init__(self) -> None:
            super().__init__()
            self.shade = nn.Parameter(torch.ones(()))

        def sample(self, n: int) -> Tensor:
            return self.shade.expand(n, 1, 8, 8)

        def training_step(self, batch: Any) -> Tensor:
            return self.shade

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.2)

    callbacks = [EMAWeightAveraging(decay=0.5), SampleGridCallback(3, num_samples=1)]
    trainer(tmp_path, callbacks, max_epochs=1).fit(Constant(), loader())
    pixels = np.asarray(Image.open(tmp_path / "samples" / "000003.png"))
    # torch's average begins with the first weight that it is given.
    average = (0.8 / 2 + 0.6 / 2) / 2 + 0.4 / 2
    assert pixels[4, 4, 0] == pytest.approx((average + 1) / 2 * 255, abs=0.51)


@pytest.mark.parametrize(
    ("every_n_epochs", "options", "steps"),
    [
        (1, {}, [3, 6, 9, 12]),
        (1, {"check_val_every_n_epoch": 2}, [6, 12]),
        (2, {"check_val_every_n_epoch": 2}, [6, 12]),
        (3, {"check_val_every_n_epoch": 2}, [6, 12]),
        (1, {"val_check_interval": 2}, [2, 5, 8, 11]),
    ],
)
def test_a_checkpoint_is_named_by_the_distance_of_its_weights(
    tmp_path: Path, every_n_epochs: int, options: dict[str, Any], steps: list[int]
) -> None:
    torch.manual_seed(3)
    callbacks = [fid(tmp_path, every_n_epochs=every_n_epochs), checkpoints(tmp_path)]
    run = trainer(tmp_path, callbacks, enable_checkpointing=True, max_epochs=4, **options)
    run.fit(Validated(), loader(), loader(shuffle=False))
    files = saved(tmp_path)
    assert sorted(files) == steps
    for value, content in files.values():
        assert value == pytest.approx(distance(tmp_path, content["state_dict"]), abs=2e-5)


def test_a_checkpoint_between_two_evaluations_has_one_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save = checkpoints(tmp_path, monitor=f"{NAME}/best", filename="{step}-{" + NAME + ":.5f}", every_n_train_steps=2)
    run = trainer(tmp_path, [fid(tmp_path, every_n_steps=100), save], enable_checkpointing=True)
    run.fit(Generator(), loader())
    files = saved(tmp_path)
    assert sorted(files) == [2, 4, 6]
    for value, content in files.values():
        assert value == pytest.approx(distance(tmp_path, content["state_dict"]), abs=2e-5)


def test_an_evaluation_after_a_validation_leaves_an_extractor_that_can_be_used(tmp_path: Path) -> None:
    """Tensors that are made in Lightning's inference mode could not be used in a graph later."""
    callback = fid(tmp_path, feature_extractor=nn.Sequential(nn.Flatten(), partial_float(), nn.Linear(64, 5)))
    run = trainer(tmp_path, [callback], check_val_every_n_epoch=2)
    run.fit(Validated(), loader(), loader(shuffle=False))
    assert not any(parameter.is_inference() for parameter in callback.feature_extractor.parameters())


def partial_float() -> nn.Module:
    class Float(nn.Module):
        forward = staticmethod(partial(Tensor.to, dtype=torch.float32))

    return Float()


def test_batches_are_counted_where_lightning_sees_no_step(tmp_path: Path) -> None:
    steps: list[int] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if callback.evaluated_at == (trainer.current_epoch * STEPS + len(steps) % STEPS + 1):
                values.append(callback.values["fd_features"])
            steps.append(trainer.global_step)

    values: list[float] = []
    callback, monitor, grid = fid(tmp_path, every_n_steps=2), MixtureMonitor(), SampleGridCallback(4, num_samples=2)
    run = trainer(tmp_path, [GMMRefitCallback(), monitor, callback, grid, Watch()], max_epochs=2)
    run.fit(RawOptimizer(), loader())
    assert steps == [0] * 2 * STEPS
    assert len(values) == len(set(values)) == 3
    assert callback.evaluated_at == 2 * STEPS
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["000004.png", "000006.png"]
    (history,) = monitor.histories.values()
    assert history.steps == [STEPS, 2 * STEPS]
