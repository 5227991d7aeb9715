"""A fit that was interrupted, anywhere in an epoch, ends in the weights of one that was not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gloo, resume_cases
from helpers.states import in_one_order
from helpers.tiny import BATCHES, classifier, digits, mixtures, trainer, weights_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback

NORMS = ["batch", "mixture", "mode", "mode_group"]
EPOCHS = 3


def fit(folder: Path, norm: str, stop: int | None = None, resume: Path | None = None, **arguments: Any) -> Any:
    """Train for EPOCHS, or until the step ``stop`` is saved."""
    model = classifier()
    if resume:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)  # whatever is not restored shows
        torch.manual_seed(123)  # another process has another random state
    callbacks: list[Callback] = [NormSwapCallback("all", norm), GMMRefitCallback(), QueueResetCallback()]
    if stop:
        callbacks += [ModelCheckpoint(folder, "{step}", every_n_train_steps=stop), Stop(stop)]
    arguments = {"max_epochs": EPOCHS, "enable_checkpointing": bool(stop), **arguments}
    trainer(folder, callbacks, **arguments).fit(model, digits(), ckpt_path=resume)
    return model


class InterruptionError(Exception):
    pass


class Stop(Callback):
    """Ends the fit when ``step`` steps have been made."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptionError


def interrupted(folder: Path, norm: str, stop: int, **arguments: Any) -> Path:
    with pytest.raises(InterruptionError):
        fit(folder, norm, stop=stop, **arguments)
    return folder / f"step={stop}.ckpt"


def without_mixtures(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "mixture_" not in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The uninterrupted fits."""
    folder = tmp_path_factory.mktemp("whole")
    return {norm: weights_of(fit(folder, norm)) for norm in NORMS}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("stop", [1, 2 * BATCHES - 3, 2 * BATCHES - 1, 2 * BATCHES])
def test_resumed_anywhere(norm: str, stop: int, whole: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    resumed = in_one_order(weights_of(fit(tmp_path, norm, resume=interrupted(tmp_path, norm, stop))))
    for name, value in in_one_order(whole[norm]).items():
        assert torch.equal(resumed[name], value), name  # mixtures too: a whole epoch comes after


@pytest.mark.parametrize("norm", ["batch", "mixture"])
@pytest.mark.parametrize("stop", [2 * BATCHES + 2, 3 * BATCHES - 1])
def test_resumed_in_the_last_epoch(norm: str, stop: int, whole: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    """The queue starts anew: the mixtures are fitted to what comes after."""
    model = fit(tmp_path, norm, resume=interrupted(tmp_path, norm, stop))
    for name, value in without_mixtures(whole[norm]).items():
        assert torch.equal(weights_of(model)[name], value), name
    for layer in mixtures(model):
        assert not layer.stale
        assert layer.queue.pushes == 3 * BATCHES - stop


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": -1, "max_steps": EPOCHS * BATCHES},
        {"val_check_interval": 2},
        {"limit_train_batches": 4},
        {"accumulate_grad_batches": 2, "max_epochs": EPOCHS},
    ],
    ids=str,
)
def test_resumed_with(arguments: dict[str, Any], tmp_path: Path) -> None:
    expected = weights_of(fit(tmp_path, "mixture", **arguments))
    for stop in (4, 7):
        path = interrupted(tmp_path, "mixture", stop, **arguments)
        resumed = weights_of(fit(tmp_path, "mixture", resume=path, **arguments))
        for name, value in without_mixtures(expected).items():
            assert torch.equal(resumed[name], value), name


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes(tmp_path: Path) -> None:
    steps = (2, 6)
    for whole, *resumed in gloo.run(resume_cases.fits, 2, tmp_path, tmp_path, "mixture", steps):
        for state in resumed:
            for name, value in without_mixtures(whole).items():
                assert torch.equal(state[name], value), name
