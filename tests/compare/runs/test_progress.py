"""How far a run is said to be, against counts by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from mn_lightning.compare.runs import progress as progress_module
from mn_lightning.compare.runs.progress import ProgressWriter
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.compare.runs.run import Progress, Run
from mn_lightning.compare.study.study import Study
from mn_lightning.models import DCGAN


class Reader(Callback):
    """Reads what has been written after each batch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seen: list[Progress] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        found = self.run.progress()
        assert found is not None
        self.seen.append(found)


@pytest.fixture(autouse=True)
def _at_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_INTERVAL", 0.0)


def callbacks(folder: Path) -> tuple[list[Any], Reader]:
    run = Run(Study("mine", (), {"BN": {}}, "BN", "val_acc"), "BN", 0, folder)
    run.folder.mkdir(parents=True)
    assert run.progress() is None
    recorder, reader = RunRecorder(folder / "metrics.csv"), Reader(run)
    return [recorder, ProgressWriter(run, recorder), reader], reader


def test_shares_of_epochs(tmp_path: Path) -> None:
    given, reader = callbacks(tmp_path)
    trainer(tmp_path, given, enable_checkpointing=True).fit(classifier(), digits())
    total = 2 * BATCHES
    assert [found.done for found in reader.seen] == pytest.approx([i / total for i in range(1, total + 1)])
    assert [found.score is None for found in reader.seen] == [True] * BATCHES + [False] * BATCHES
    assert reader.seen[-1].left == 0
    last = reader.run.progress()
    assert last is not None
    assert (last.done, last.score) == (1, given[0].rows[-1]["val_acc"])
    assert all(found.left is not None and found.left > 0 for found in reader.seen[:-1])


def test_what_was_done_before_does_not_count_for_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second epoch of four, at a second a batch: 5 - i of its batches and 10 more are left."""
    first = trainer(tmp_path, [], max_epochs=1, enable_checkpointing=True)
    first.fit(classifier(), digits())
    first.save_checkpoint(tmp_path / "first.ckpt")
    given, reader = callbacks(tmp_path)

    class Clock(Callback):
        now = 0.0

        def on_train_batch_start(self, *_: Any) -> None:
            Clock.now += 1

    monkeypatch.setattr(progress_module.time, "monotonic", lambda: Clock.now)
    again = trainer(tmp_path, [Clock(), *given], max_epochs=4, enable_checkpointing=True)
    again.fit(classifier(), digits(), ckpt_path=tmp_path / "first.ckpt")
    assert [found.left for found in reader.seen] == pytest.approx([15 - i for i in range(1, 16)])


@pytest.mark.parametrize(
    ("arguments", "end"), [({"max_epochs": -1, "max_steps": 4}, 4), ({"max_epochs": 50, "max_steps": 8}, 8)]
)
def test_shares_of_steps(tmp_path: Path, arguments: dict[str, int], end: int) -> None:
    given, reader = callbacks(tmp_path)
    trainer(tmp_path, given, enable_checkpointing=True, **arguments).fit(classifier(), digits())
    assert [found.done for found in reader.seen] == pytest.approx([i / end for i in range(1, end + 1)])


def test_shares_of_a_generators_steps(tmp_path: Path) -> None:
    given, reader = callbacks(tmp_path)
    model = DCGAN(1, latent_features=5, base_channels=2, max_generator_steps=4)
    data = DataLoader(torch.zeros(16, 1, 32, 32), batch_size=4)
    trainer(tmp_path, given, max_epochs=-1, enable_checkpointing=True).fit(model, data)
    assert [found.done for found in reader.seen] == pytest.approx([0.25, 0.5, 0.75, 1.0])
