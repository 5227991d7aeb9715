"""A report of runs that were measured as trained and with statistics of their current weights, and of more metrics."""

import csv
from pathlib import Path

from helpers.study_calls import BASE, call, files, write


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
        assert f"- MN: its best {words} is " in report


def test_studies_without_it_are_as_ever(started: list[str]) -> None:
    assert call(write(seeds=[0], variants={"BN": None})) == 0
    report = Path("studies/mine/report.md").read_text()
    assert "## Best val_acc\n" in report
    assert "as trained" not in report
