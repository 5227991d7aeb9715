"""A report of runs that were measured as trained and with statistics of their current weights, and of more metrics."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.study_calls import BASE, VARIANTS, call, files, write

from mn_lightning.compare.study.load import load_study


def test_verdicts_say_what_they_are_about(started: list[str]) -> None:
    twice = {"class_path": "CurrentStatisticsCallback", "init_args": {"batches": 2}}
    callbacks = [*BASE["trainer"]["callbacks"], twice]
    network = {"network": "helpers.study_parts.TinyNetwork", "top_k": 3}
    model = {"class_path": "ImageClassifier", "init_args": network}
    base = {**BASE, "model": model, "trainer": {**BASE["trainer"], "max_epochs": 2, "callbacks": callbacks}}
    also = {"val_top3_acc": {"BN": {"100%": 0.891}}}
    assert call(write(base=base, seeds=[0], also=also)) == 0
    assert [name for name in files("*") if name.endswith("png")] == ["curves.png", "curves_2.png", "curves_3.png"]
    with Path("studies/mine/results.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "MN"]
    best = {name: max(float(row[name]) for row in rows) for name in ("val_acc", "val_acc/current", "val_top3_acc")}
    assert best["val_acc"] < best["val_top3_acc"] <= 1
    report = Path("studies/mine/report.md").read_text()
    current = "val_acc with statistics of the current weights"
    for title, value in (
        ("val_acc as trained", best["val_acc"]),
        (current, best["val_acc/current"]),
        ("val_top3_acc", best["val_top3_acc"]),
    ):
        table = report.split(f"## Best {title}\n")[1].split("##")[0]
        (row,) = [line for line in table.splitlines() if line.startswith("| MN |")]
        assert f"| {value:.4f} | 1 |" in row
    assert "0.891" in report.split("## Best val_top3_acc\n")[1].split("##")[0]
    for words in ("val_acc as trained", current, "val_top3_acc"):
        assert f"- MN, best {words}: " in report


def test_studies_without_it_are_as_ever(started: list[str]) -> None:
    assert call(write(seeds=[0], variants={"BN": None})) == 0
    report = Path("studies/mine/report.md").read_text()
    assert "## Best val_acc\n" in report
    assert "val_acc as trained" not in report


ONE_EPOCH = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 1}}


def columns() -> list[str]:
    with Path("studies/mine/results.csv").open(newline="") as file:
        return next(csv.reader(file))


def test_the_option_gives_it_to_every_run(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Also to a variant that has callbacks of its own in place of the base's; and the folder remembers it."""
    variants = {"BN": {"trainer.callbacks": []}, "MN": VARIANTS["MN"]}
    write(base=ONE_EPOCH, variants=variants, seeds=[0])
    assert call("mine.yaml", "--current_statistics") == 0
    printed = capsys.readouterr().out
    for words in ("val_acc as trained", "val_acc with statistics of the current weights"):
        assert f"MN, best {words}: " in printed
    with Path("studies/mine/results.csv").open(newline="") as file:
        assert {row["variant"] for row in csv.DictReader(file) if row["val_acc/current"]} == {"BN", "MN"}
    assert json.loads(Path("studies/mine/study.json").read_text())["current_statistics"] is True

    started.clear()
    for arguments in ([], ["--report"], ["--only", "BN", "--seed", "0"]):
        assert call("mine.yaml", *arguments) == 2
        error = capsys.readouterr().err
        assert "holds runs of this study with another current_statistics" in error
        assert error.count("\n") == 1
    assert call("mine.yaml", "--current_statistics") == 0
    assert started == []


def test_it_is_refused_for_a_folder_without(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(base=ONE_EPOCH, seeds=[0])) == 0
    assert "val_acc/current" not in columns()
    path = Path("studies/mine/study.json")
    content: dict[str, Any] = json.loads(path.read_text())
    content.pop("current_statistics")
    path.write_text(json.dumps(content))  # as an earlier version wrote it
    assert call("mine.yaml", "--current_statistics") == 2
    assert "another current_statistics" in capsys.readouterr().err
    assert call("mine.yaml") == 0


def test_a_study_can_ask_for_it_itself(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(base=ONE_EPOCH, seeds=[0], current_statistics=True)) == 0
    assert "val_acc/current" in columns()
    assert call(write(current_statistics="yes please")) == 2
    assert "it takes true or false" in capsys.readouterr().err


def test_what_it_cannot_measure_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(metric="train_acc"), "--current_statistics") == 2
    assert "does not log 'train_acc' in validation_step" in capsys.readouterr().err


def test_it_is_there_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has it in the base, with settings, keeps these."""
    own = {"class_path": "CurrentStatisticsCallback", "init_args": {"batches": 7}}
    callbacks = [*BASE["trainer"]["callbacks"], own]
    write(base={**BASE, "trainer": {**BASE["trainer"], "callbacks": callbacks}}, seeds=[0])
    assert call("mine.yaml", "--current_statistics", "--dry-run", "--only", "MN") == 0
    (configuration,) = yaml.safe_load_all(capsys.readouterr().out)
    names = [entry["class_path"].rpartition(".")[2] for entry in configuration["trainer"]["callbacks"]]
    assert names.count("CurrentStatisticsCallback") == 1


def test_the_shipped_studies_on_fashion_mnist_have_both() -> None:
    for name in ("fashion_mnist", "fashion_mnist_multitask", "evaluation_effect"):
        study = load_study(name)
        for variant in study.variants:
            assert sum("CurrentStatisticsCallback" in argument for argument in study.arguments(variant, 0)) == 1
