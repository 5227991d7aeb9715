"""A study of generators: what is prepared for it, what is measured in the middle of an epoch, and its pictures."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.data_files import trust_files, write_cifar10, write_fashion_mnist
from helpers.random_inception import save_random_inception
from helpers.study_calls import call, files, swap, write
from PIL import Image

from mn_lightning.callbacks import fid
from mn_lightning.compare.check import check_study
from mn_lightning.compare.parser import WRONG
from mn_lightning.compare.runs.jobs import INCOMPLETE
from mn_lightning.compare.study.load import load_study
from mn_lightning.fid import extractors

CLASSIFIER: dict[str, Any] = {
    "model": {"class_path": "ImageClassifier", "init_args": {"network": "helpers.study_parts.TinyNetwork"}},
    "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 256, "image_size": 8}},
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
}
MEASURE = {
    "class_path": "FIDCallback",
    "init_args": {
        "every_n_steps": 2,
        "num_samples": 20,
        "log_floor": True,
        "cache_dir": "cache",
        "feature_extractor": {
            "class_path": "ClassifierFeatures",
            "init_args": {
                "checkpoint": "${prepare.features}",
                "network": "helpers.study_parts.TinyNetwork",
                "mean": [0.3],
                "std": [0.4],
                "image_size": 8,
            },
        },
    },
}
BASE = {
    "model": {"class_path": "DCGAN", "init_args": {"channels": 1, "base_channels": 1, "max_generator_steps": 5}},
    "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 400, "normalize": "symmetric"}},
    "trainer": {
        **CLASSIFIER["trainer"],
        "max_epochs": -1,
        "callbacks": ["GMMRefitCallback", "QueueResetCallback", MEASURE],
    },
}


def write_gan(**changes: Any) -> str:
    study: dict[str, Any] = {
        "prepare": {"features": CLASSIFIER},
        "base": BASE,
        "variants": {"BN": None, "MN": {"trainer.callbacks+": swap("mixture", n_components=2)}},
        "metric": "fd_classifier",
        "mode": "min",
        "seeds": [0],
    }
    return write(**{**study, **changes})


@pytest.mark.filterwarnings("ignore:.*biased upwards")
def test_a_study_of_generators(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write_gan(), "--keep", "best") == 0
    assert started == ["prepare/features", "BN/seed-0", "MN/seed-0"]
    assert files("*") == ["curves.png", "prepare", "report.md", "results.csv", "runs", "samples.png", "study.json"]
    assert files("prepare/*/checkpoints/last.ckpt") == ["prepare/features/checkpoints/last.ckpt"]

    with Path("studies/mine/results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "MN"]
    # Epochs have four steps; two are measured within the epochs, and the last one.
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [(0, 2), (0, 4), (1, 5)]
    values = {int(row["step"]): float(row["fd_classifier"]) for row in rows}
    logged = next(Path("studies/mine/runs/MN/seed-0").glob("lightning_logs/*/metrics.csv"))
    with logged.open(newline="") as file:
        seen = [float(row["fd_classifier"]) for row in csv.DictReader(file) if row["fd_classifier"]]
    assert list(values.values()) == pytest.approx(seen)

    best = torch.load("studies/mine/runs/MN/seed-0/checkpoints/best.ckpt", weights_only=True)
    assert best["generator_steps"] == min(values, key=lambda step: values[step])
    with Image.open("studies/mine/runs/MN/seed-0/best_samples.png") as grid:
        assert grid.size == (8 * 33 + 1, 3 * 33 + 1)  # 20 samples
    report = Path("studies/mine/report.md").read_text()
    floor = float(rows[-1]["fd_classifier/floor"])
    for part in ("![](samples.png)", f"halves of the real images, the dotted line, is {floor:.4g}"):
        assert part in report

    started.clear()
    assert call("mine.yaml") == 0
    assert started == []


def test_what_is_prepared_can_be_prepared_alone(started: list[str]) -> None:
    assert call(write_gan(), "--prepare", "features") == 0
    assert started == []
    assert files("*/*") == ["prepare/features"]
    assert call("mine.yaml", "--prepare", "feature") == WRONG


def test_without_a_preparation_there_are_no_runs(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write_gan(), "--prepare", "features") == 0
    failed = {**CLASSIFIER, "trainer": {**CLASSIFIER["trainer"], "callbacks": "helpers.study_parts.FailInTraining"}}
    assert call(write_gan(prepare={"features": failed}), "--fresh") == INCOMPLETE
    assert started == ["prepare/features"]
    assert "without the preparation features there are no runs" in capsys.readouterr().err
    assert not files("runs/*")


def test_a_wrong_preparation_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**CLASSIFIER, "data": {"class_path": "DigitsDataModule", "init_args": {"image_size": 3}}}
    assert call(write_gan(prepare={"features": wrong})) == WRONG
    error = capsys.readouterr().err
    assert "the preparation 'features' of the study 'mine' does not run" in error
    assert error.strip().count("\n") == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dcgan_digits", "dcgan_fashion_mnist", "dcgan_cifar10"])
def test_every_shipped_variant_trains_on_files_of_the_right_format(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of the preparation and of each variant, with a distance; Inception's weights are random."""
    study = load_study(name)
    if name == "dcgan_fashion_mnist":
        write_fashion_mnist(tmp_path / "data", 100, 20)
    if name == "dcgan_cifar10":
        write_cifar10(tmp_path / "data", 100, 20)
        trust_files(tmp_path / "data", monkeypatch)
        monkeypatch.setattr(fid, "FAST_DEV_RUN_SAMPLES", 4)  # of 299x299 pixels for Inception
        # Of all its 2,048 features, four distances would take ten seconds.
        monkeypatch.setattr(extractors, "_layer", lambda *_: "192")
        _, _, measure = study.base[1]["trainer"]["callbacks"]
        measure["init_args"]["weights_path"] = str(save_random_inception(tmp_path / "inception.pth"))
    check_study(study)
    assert study.variants.keys() == {"DCGAN-BN", "DCGAN-MN"}
