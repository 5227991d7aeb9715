import csv
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, trainer
from helpers.tiny_generator import Generator, fid, loader
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from mn_lightning.compare.runs.recorder import Row, RunRecorder
from mn_lightning.models import DCGAN, ImageClassifier


class Clock:
    """Stands in for the time: it passes where a test says so, and a millisecond each time that someone looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-3
        return self.now


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", CLOCK)


def record(folder: Path, *callbacks: Callback, model: LightningModule | None = None, **arguments: Any) -> list[Row]:
    recorder = RunRecorder(folder / "metrics.csv")
    trainer(folder, [recorder, *callbacks], enable_checkpointing=True, **arguments).fit(model or classifier(), digits())
    return recorder.rows


def test_a_row_for_each_epoch_with_all_metrics(tmp_path: Path) -> None:
    rows = record(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, BATCHES), (1, 2 * BATCHES)]
    for row in rows:
        assert row.keys() == {"epoch", "step", "seconds", "train_loss", "train_acc", "val_loss", "val_acc"}
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"]


def test_the_values_are_those_of_the_trainer(tmp_path: Path) -> None:
    seen: list[float] = []

    class Grab(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                seen.append(float(trainer.callback_metrics["val_loss"]))

    assert [row["val_loss"] for row in record(tmp_path, Grab())] == seen
    assert len(set(seen)) == 2


def test_the_file_holds_the_rows(tmp_path: Path) -> None:
    rows = record(tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)] == rows
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_validation_within_an_epoch(tmp_path: Path) -> None:
    rows = record(tmp_path, val_check_interval=2)
    assert [row["step"] for row in rows] == [2, 4, 5, 7, 9, 10]
    assert ["val_loss" in row for row in rows] == [True, True, False, True, True, False]
    assert ["train_acc" in row for row in rows[:3]] == [False, False, True]


def test_metrics_of_an_earlier_validation_are_not_repeated(tmp_path: Path) -> None:
    rows = record(tmp_path, max_epochs=4, check_val_every_n_epoch=2)
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert ["val_acc" in row for row in rows] == [False, True, False, True]


def test_metrics_that_are_logged_in_training_alone(tmp_path: Path) -> None:
    class Score(ImageClassifier):
        def on_train_epoch_end(self) -> None:
            self.log("score", float(self.current_epoch))

    rows = record(tmp_path, model=Score(classifier().network), limit_val_batches=0)
    assert [row["score"] for row in rows] == [0, 1]


def test_steps_are_the_generators_where_the_module_counts_those(tmp_path: Path) -> None:
    model = DCGAN(1, latent_features=5, base_channels=2, max_generator_steps=BATCHES + 1)
    recorder = RunRecorder(tmp_path / "metrics.csv")
    run = trainer(tmp_path, [recorder], max_epochs=-1, enable_checkpointing=True)
    run.fit(model, DataLoader(torch.zeros(4 * BATCHES, 1, 32, 32), batch_size=4))
    assert run.global_step == 2 * (BATCHES + 1)
    assert [(row["epoch"], row["step"]) for row in recorder.rows] == [(0, BATCHES), (1, BATCHES + 1)]
    for row in recorder.rows:
        assert row.keys() == {"epoch", "step", "seconds", "discriminator_loss", "generator_loss"}


@pytest.mark.usefixtures("clock")
def test_the_clock_stands_still_in_validation(tmp_path: Path) -> None:
    class Slow(ImageClassifier):
        def on_validation_epoch_start(self) -> None:
            CLOCK.now += 1

        def on_train_epoch_start(self) -> None:
            CLOCK.now += 0.25

    rows = record(tmp_path, model=Slow(classifier().network))
    assert rows[0]["seconds"] == pytest.approx(0.25, abs=0.1)
    assert rows[1]["seconds"] == pytest.approx(0.5, abs=0.1)


def test_a_resumed_run_has_each_row_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = record(tmp_path / "a", max_epochs=4)
    first = trainer(tmp_path, [RunRecorder(tmp_path / "b" / "metrics.csv")], enable_checkpointing=True)
    first.fit(classifier(), digits())
    first.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(1)
    resumed = RunRecorder(tmp_path / "b" / "metrics.csv")
    trainer(tmp_path, [resumed], max_epochs=4, enable_checkpointing=True).fit(
        classifier(), digits(), ckpt_path=tmp_path / "half.ckpt"
    )
    assert [row["step"] for row in resumed.rows] == [row["step"] for row in whole]
    assert [row["val_loss"] for row in resumed.rows] == pytest.approx([row["val_loss"] for row in whole], abs=1e-6)
    seconds = [row["seconds"] for row in resumed.rows]
    assert seconds == sorted(seconds)


class SlowGenerator(Generator):
    """Takes time for each whole block of 16 samples that is measured; a training step draws eight at most."""

    def sample(self, n: int) -> Tensor:
        if n > 8:
            CLOCK.now += 0.25
        return super().sample(n)


def record_distances(folder: Path, **arguments: Any) -> list[Row]:
    recorder = RunRecorder(folder / "metrics.csv")
    callback = fid(folder, **arguments)  # 50 images in four blocks
    trainer(folder, [recorder, callback], enable_checkpointing=True).fit(SlowGenerator(), loader())
    return recorder.rows


def test_distances_are_recorded_at_the_step_where_they_are_measured(tmp_path: Path) -> None:
    rows = record_distances(tmp_path, every_n_steps=2)  # epochs of three steps
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    assert ["fd_features" in row for row in rows] == [True, False, True, True]
    assert ["loss" in row for row in rows] == [False, True, False, True]


@pytest.mark.usefixtures("clock")
def test_the_clock_stands_still_while_distances_are_measured(tmp_path: Path) -> None:
    started = CLOCK.now
    rows = record_distances(tmp_path, every_n_steps=1)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] < 0.5
    assert CLOCK.now - started > 6 * 3 * 0.25  # six evaluations of three whole blocks


def test_a_distance_of_an_epoch_is_in_its_row(tmp_path: Path) -> None:
    rows = record_distances(tmp_path, every_n_epochs=2, log_floor=True)
    assert ["fd_features" in row for row in rows] == [False, True]
    assert rows[0]["fd_features/floor"] == rows[1]["fd_features/floor"] > 0
