"""Where a network draws random numbers, a resumed run draws those of an uninterrupted one."""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import gloo, resume_cases
from helpers.tiny import trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.callbacks import NormSwapCallback, RandomStateCallback
from mn_lightning.data import DigitsDataModule
from mn_lightning.models import DCGAN, ImageClassifier, NetworkInNetwork

BATCHES = 3
EPOCHS = 3


class InterruptionError(Exception):
    pass


class Interrupt(Callback):
    """Breaks the fit off in a step, after it has drawn random numbers."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            torch.rand(3)
            raise InterruptionError


class Noise(LightningModule):
    """Adds random numbers of all kinds to its weights in each step, in training and in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.drawn: list[float] = []

    def training_step(self, batch: Any) -> Tensor:
        self.drawn.append(float(torch.rand(1)) + random.random() + float(np.random.rand()) + float(batch[0].sum()))
        return self.layer(batch[0].view(-1, 1)).mean() * self.drawn[-1]

    def validation_step(self, batch: Any) -> None:
        torch.rand(5), random.random(), np.random.rand(2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(NetworkInNetwork(in_channels=1))


def gan() -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(channels=1, base_channels=4, latent_features=8)


def digits(model: LightningModule) -> DigitsDataModule:
    size, normalize = (8, "standard") if isinstance(model, ImageClassifier) else (32, "symmetric")
    return DigitsDataModule(batch_size=4, image_size=size, normalize=normalize)  # type: ignore[arg-type]


def fit(folder: Path, model: LightningModule, data: Any = None, *more: Callback, **arguments: Any) -> LightningModule:
    resume = arguments.pop("resume", None)
    if resume:
        torch.manual_seed(123)  # another process has other random states
        random.seed(123)
        np.random.seed(123)
    data = digits(model) if data is None else data
    defaults = {"max_epochs": EPOCHS, "limit_train_batches": BATCHES, "limit_val_batches": 1}
    arguments = {**defaults, "enable_checkpointing": any(isinstance(one, ModelCheckpoint) for one in more), **arguments}
    trainer(folder, [RandomStateCallback(), *more], **arguments).fit(model, data, ckpt_path=resume)
    return model


def interrupted(
    folder: Path, model: LightningModule, batch: int, data: Any = None, *more: Callback, **arguments: Any
) -> Path:
    """A fit that breaks off in the batch with this number, counted from 0; its checkpoint of the batch before."""
    saver = ModelCheckpoint(folder, "last", every_n_train_steps=1, enable_version_counter=False)
    with pytest.raises(InterruptionError):
        fit(folder, model, data, *more, Interrupt(batch), saver, **arguments)
    return folder / "last.ckpt"


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("make", [classifier, gan])
@pytest.mark.parametrize("batch", [2, BATCHES + 1])
def test_resumed_in_the_middle_of_an_epoch(make: Any, batch: int, tmp_path: Path) -> None:
    whole = fit(tmp_path, make(), None, NormSwapCallback("first", "mode"))
    path = interrupted(tmp_path, make(), batch, None, NormSwapCallback("first", "mode"))
    assert same(fit(tmp_path, make(), None, NormSwapCallback("first", "mode"), resume=path), whole)


@pytest.mark.parametrize("make", [classifier, gan])
def test_resumed_at_the_end_of_an_epoch(make: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path, make())
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit(tmp_path, make(), None, saver, max_epochs=2)
    for epoch in (0, 1):
        assert same(fit(tmp_path, make(), resume=tmp_path / f"epoch={epoch}.ckpt"), whole)


def test_without_the_callback_it_is_another_run(tmp_path: Path) -> None:
    """So that these tests can fail."""
    whole = fit(tmp_path, classifier())
    path = interrupted(tmp_path, classifier(), 2)
    content = torch.load(path, weights_only=True)
    del content["callbacks"]["RandomStateCallback"]
    torch.save(content, path)
    assert not same(fit(tmp_path, classifier(), resume=path), whole)


def shuffled(workers: int = 0) -> DataLoader[Any]:
    """Torch's own loader: its order is drawn from the random state."""
    values = TensorDataset(torch.arange(2.0 * BATCHES).view(-1, 1))
    return DataLoader(values, batch_size=2, shuffle=True, num_workers=workers)


@pytest.mark.parametrize("arguments", [{}, {"max_epochs": -1, "max_steps": EPOCHS * BATCHES}], ids=str)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.processes)])
@pytest.mark.parametrize("saver", ["train_epoch", "validation", "fit"])
def test_torchs_own_shuffling_goes_on_after_an_epoch(
    workers: int, saver: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    def run(*more: Callback, **others: Any) -> Noise:
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        model = Noise()
        fit(tmp_path, model, DataLoaders(workers), *more, **{**arguments, **others})
        return model

    whole = run()
    at_epoch_end = saver == "train_epoch"
    savers = [] if saver == "fit" else [ModelCheckpoint(tmp_path, "last", save_on_train_epoch_end=at_epoch_end)]
    limit = {"max_steps": 2 * BATCHES} if "max_steps" in arguments else {"max_epochs": 2}
    if saver == "fit":
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        model = Noise()
        first = trainer(tmp_path, [RandomStateCallback()], limit_val_batches=1, **{**arguments, **limit})
        first.fit(model, DataLoaders(workers))
        first.save_checkpoint(tmp_path / "last.ckpt")
    else:
        run(*savers, **limit)
    resumed = run(resume=tmp_path / "last.ckpt")
    assert resumed.drawn == whole.drawn[2 * BATCHES :]


class DataLoaders(DigitsDataModule):
    """Torch's loaders."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers

    def train_dataloader(self) -> Any:
        return shuffled(self.workers)

    def val_dataloader(self) -> Any:
        return shuffled()


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_before_and_after_a_validation_it_is_the_same(batch: int, tmp_path: Path) -> None:
    """Lightning leaves a validation out that comes right after the step that was saved."""

    def noise() -> Noise:
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        return Noise()

    data = DigitsDataModule(batch_size=16, image_size=8)
    whole = fit(tmp_path, noise(), data, val_check_interval=2)
    path = interrupted(tmp_path, noise(), batch, data, val_check_interval=2)
    resumed = fit(tmp_path, noise(), data, resume=path, val_check_interval=2)
    assert resumed.drawn == whole.drawn[batch:]


def test_other_processes_are_said(tmp_path: Path) -> None:
    path = interrupted(tmp_path, classifier(), 2)
    content = torch.load(path, weights_only=True)
    states = content["callbacks"]["RandomStateCallback"]["states"]
    states[1] = states[0]
    torch.save(content, path)
    with pytest.warns(UserWarning, match="of 2 processes on cpu, and this run has 1 on cpu: it draws other") as caught:
        fit(tmp_path, classifier(), resume=path, max_epochs=1)
    assert "\n" not in str(caught[0].message)


def test_a_step_that_breaks_off_is_drawn_again(tmp_path: Path) -> None:
    """The checkpoint of an error is from the middle of a step."""

    class Save(Callback):
        def on_exception(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "error.ckpt")

    torch.manual_seed(0)
    whole = fit(tmp_path, classifier())
    torch.manual_seed(0)
    with pytest.raises(InterruptionError):
        fit(tmp_path, classifier(), None, Interrupt(2), Save())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(fit(tmp_path, classifier(), resume=tmp_path / "error.ckpt"), whole)


@pytest.mark.processes
def test_each_process_goes_on_with_its_own(tmp_path: Path) -> None:
    first, second = gloo.run(resume_cases.draws, 2, tmp_path, tmp_path)
    for whole, *resumed in (first, second):
        assert resumed == [whole[2:], whole[3:]]
    assert first[0] != second[0]
