from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import classifier, digits, trainer
from helpers.tiny_generator import Generator, fid, loader
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from mn_lightning.compare.runs.best import CHECKPOINT, SAMPLES, BestKeeper
from mn_lightning.compare.runs.recorder import RunRecorder
from mn_lightning.compare.study.study import Mode
from mn_lightning.models import ImageClassifier


class Score(ImageClassifier):
    """Scores in the validation what a test says."""

    scores: tuple[float, ...] = ()

    def on_validation_epoch_end(self) -> None:
        self.log("score", self.scores[self.current_epoch])


class Weights(Callback):
    """Remembers them at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def fit(folder: Path, scores: tuple[float, ...], mode: Mode, **arguments: Any) -> Weights:
    model = Score(classifier().network)
    model.scores = scores
    weights, recorder = Weights(), RunRecorder(folder / "metrics.csv")
    callbacks = [recorder, BestKeeper(recorder, folder, "score", mode), weights]
    run = trainer(folder, callbacks, enable_checkpointing=True, max_epochs=len(scores))
    run.fit(model, digits(), **arguments)
    run.save_checkpoint(folder / "last.ckpt")
    return weights


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ((1.0, 3.0, 2.0), "max", 1),
        ((1.0, 3.0, 2.0), "min", 0),
        ((1.0, 1.0, 1.0), "max", 0),
        ((torch.nan, 5.0, torch.nan), "min", 1),
    ],
)
def test_the_weights_of_the_best_evaluation_are_kept(
    tmp_path: Path, scores: tuple[float, ...], mode: Mode, best: int
) -> None:
    weights = fit(tmp_path, scores, mode).seen
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["epoch"] == best
    assert "optimizer_states" not in kept
    for name, value in weights[best].items():
        assert torch.equal(kept["state_dict"][name], value)
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.parametrize(("third", "epoch"), [(2.0, 1), (4.0, 2)])
def test_a_resumed_run_knows_what_was_best(tmp_path: Path, third: float, epoch: int) -> None:
    fit(tmp_path, (1.0, 3.0), "max")
    fit(tmp_path, (1.0, 3.0, third), "max", ckpt_path=tmp_path / "last.ckpt")
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["epoch"] == epoch


def test_a_metric_that_nobody_logs_keeps_nothing(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path / "metrics.csv")
    keeper = BestKeeper(recorder, tmp_path, "score", "max")
    trainer(tmp_path, [recorder, keeper], enable_checkpointing=True, max_epochs=1).fit(classifier(), digits())
    assert not (tmp_path / CHECKPOINT).exists()


def test_samples_of_the_best_generator(tmp_path: Path) -> None:
    recorder, measure = RunRecorder(tmp_path / "metrics.csv"), fid(tmp_path, every_n_steps=2, batch_size=64)
    keeper, model = BestKeeper(recorder, tmp_path, "fd_features", "min"), Generator()
    trainer(tmp_path, [recorder, keeper, measure], enable_checkpointing=True).fit(model, loader())
    distances = {row["step"]: row["fd_features"] for row in recorder.rows if "fd_features" in row}
    assert len(distances) == 3
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert kept["global_step"] == min(distances, key=lambda step: distances[step])
    # 50 images of 8x8 pixels in rows of eight, with a line between.
    grid = np.asarray(Image.open(tmp_path / SAMPLES).convert("L"))
    assert grid.shape == (7 * 9 + 1, 8 * 9 + 1)
    model.load_state_dict(kept["state_dict"])
    torch.manual_seed(int(np.random.SeedSequence((0, 0)).generate_state(1)[0]))
    first = (model.eval().sample(50)[0, 0].detach() + 1) * 127.5
    torch.testing.assert_close(torch.tensor(grid[1:9, 1:9].copy()).float(), first, atol=1, rtol=0)
