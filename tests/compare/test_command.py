"""Studies from end to end, on a tiny network; runs that are processes of their own otherwise are made in this one."""

import csv
import json
import re
import signal
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from helpers.cluster_cases import checkpoint, processes_of_runs, start, wait_until
from helpers.forked import kill_group
from helpers.study_calls import BASE, VARIANTS, call, files, swap, write
from helpers.study_parts import Stumble, Witness

from mn_lightning.compare.parser import WRONG
from mn_lightning.compare.runs import __main__ as run_process
from mn_lightning.compare.runs import jobs
from mn_lightning.compare.runs.jobs import INCOMPLETE
from mn_lightning.compare.runs.recorder import to_csv
from mn_lightning.compare.runs.run import Outcome, Run
from mn_lightning.compare.runs.supervise import BUSY, INTERRUPTED, Task
from mn_lightning.compare.study.folder import StudyFolder
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import Limits
from mn_lightning.data import DigitsDataModule

RUNS = ["BN/seed-0", "BN/seed-1", "MN/seed-0", "MN/seed-1"]


# --- a study ------------------------------------------------------------------------------------------------------


def test_a_study(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(), "--keep", "both") == 0
    assert started == ["BN/seed-0", "MN/seed-0", "BN/seed-1", "MN/seed-1"]
    assert files("*") == ["curves.png", "report.md", "results.csv", "runs", "study.json"]
    assert files("runs/*/*/checkpoints/last.ckpt") == [f"runs/{run}/checkpoints/last.ckpt" for run in RUNS]
    assert files("runs/*/*/lightning_logs/version_0/metrics.csv") == [
        f"runs/{run}/lightning_logs/version_0/metrics.csv" for run in RUNS
    ]
    assert files("runs/*/*/lightning_logs/version_0/config.yaml")

    printed = capsys.readouterr().out
    for part in ("run 1 of 4: BN, seed 0", "run 4 of 4: MN, seed 1 · finished in 0:0", "To the best of BN", "2 of 2"):
        assert part in printed

    with Path("studies/mine/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"], row["epoch"], row["step"]) for row in rows] == [
        (variant, seed, str(epoch), str(5 * epoch + 5))
        for seed in "01" for variant in ("BN", "MN") for epoch in range(3)
    ]  # fmt: skip
    best = {key: max(float(row["val_acc"]) for row in rows if (row["variant"], row["seed"]) == key)
            for key in (("BN", "0"), ("BN", "1"), ("MN", "0"), ("MN", "1"))}  # fmt: skip

    report = Path("studies/mine/report.md").read_text()
    mean = (best["BN", "0"] + best["BN", "1"]) / 2
    spread = abs(best["BN", "0"] - best["BN", "1"]) / 2**0.5
    assert f"| {mean:.4f} ± {spread:.4f} | 2 |" in report
    difference = (best["MN", "0"] + best["MN", "1"]) / 2 - mean
    assert f"| MN | {difference:+.4g} |" in report
    for part in ("![](curves.png)", "published", "torch", "command: `mn-lightning", "- MN, best val_acc: "):
        assert (part in report) == (part != "published")


def test_pairs_differ_in_the_norm_alone() -> None:
    variants = {}
    for name, norm in (("BN", "batch"), ("MN", "mixture"), ("Mode", "mode")):
        witness = {"class_path": "helpers.study_parts.Witness", "init_args": {"name": name}}
        variants[name] = {"trainer.callbacks+": [swap(norm), witness]}
    assert call(write(variants=variants, seeds=[3])) == 0
    for name in ("MN", "Mode"):
        for what in (name, f"{name} weights"):
            expected = Witness.seen[what.replace(name, "BN")]
            assert len(Witness.seen[what]) == len(expected) > 0
            for ours, theirs in zip(Witness.seen[what], expected, strict=True):
                assert torch.equal(ours, theirs)
    assert not torch.equal(Witness.seen["BN"][0], Witness.seen["BN"][5])  # another epoch, another order


def test_published_numbers_stand_beside_ours() -> None:
    published = {"MN": {"25%": 0.123, "100%": 0.456, "steps": 13400}}
    assert call(write(published=published, seeds=[0])) == 0
    report = Path("studies/mine/report.md").read_text()
    assert "published 25% | published 50%" in report
    assert "| 0.123 | – | – | 0.456 |" in report
    assert "| 13400 |" in report


def test_variants_with_baselines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Two settings, each with its own BatchNorm: as if they were two studies."""
    fast = {"model.init_args.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}}
    variants = {**VARIANTS, "BN fast": fast, "MN fast": {**VARIANTS["MN"], **fast}}
    published = {"BN": {"100%": 0.5}}
    source = {"paper": "Someone", "table": 7}
    both = write(variants=variants, baseline={"MN": "BN", "MN fast": "BN fast"}, published=published, **source)
    assert call(both) == 0
    report = Path("studies/mine/report.md").read_text()
    assert "the baselines are BN, BN fast. Published numbers: Someone, Table 7." in report
    assert "## To the best of its baseline" in report
    assert "to the best of BN" not in capsys.readouterr().out

    def rows_of(text: str, heading: str) -> list[list[str]]:
        lines = text.split(f"## {heading}")[1].split("\n## ")[0].splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
        return [row for row in rows if not row[0].startswith("---")]

    alone = {}
    for name, pair in (("BN", ["BN", "MN"]), ("BN fast", ["BN fast", "MN fast"])):
        write(variants={variant: variants[variant] for variant in pair}, baseline=name, published={})
        assert call("mine.yaml", "--report") == 0
        alone[name] = Path("studies/mine/report.md").read_text()
    for heading, differences in (("To the best of ", False), ("Difference to ", True)):
        header, *rows = rows_of(report, f"{heading}its baseline")
        assert header[:2] == ["variant", "baseline"]
        by_name = {row[0]: row[1:] for row in rows}
        assert list(by_name) == (["MN", "MN fast"] if differences else ["BN", "MN", "BN fast", "MN fast"])
        for name, text in alone.items():
            for variant, *cells in rows_of(text, f"{heading}{name}")[1:]:
                baseline, *ours = by_name[variant]
                assert baseline == name
                # Seconds differ by nothing either: the rows come from the same runs.
                # But p and the verdict, which are corrected for the number of variants.
                assert ours[: len(cells)][: 2 if differences else None] == cells[: 2 if differences else None]
    ends = []
    for text in (report, alone["BN fast"]):
        lines = text.split("## Sentences")[1].split("## Runs")[0].splitlines()
        ends.append([line.rpartition("; it reached")[2] for line in lines if "; it reached" in line])
    assert len(ends[0]) == 2
    assert ends[0][1:] == ends[1]


def test_the_report_says_what_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """From the model of the runs, with what is missing; and the run that broke is named."""
    lone = {"model.init_args.network": "helpers.study_parts.MixtureNetwork", "trainer.callbacks": ["GMMRefitCallback"]}
    broken = {"class_path": "helpers.study_parts.LogInfinity"}
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 1}}
    variants = {"BN": {"trainer.callbacks+": broken}, "MN": lone}
    assert call(write(base=base, variants=variants, seeds=[0])) == 0
    printed = capsys.readouterr().out
    report = Path("studies/mine/report.md").read_text()
    facts = json.loads(Path("studies/mine/runs/MN/seed-0/model.json").read_text())
    names = [layer["name"] for layer in facts["layers"]]
    assert f"- MN: mixture, K=4, em_iters=2, scale=unit in {', '.join(names)}" in report
    table = report.split("## What was compared")[1].split("##")[0]
    bn, mn = (next(line for line in table.splitlines() if line.startswith(f"| {name} |")) for name in variants)
    assert "as the model has them" in bn
    assert "×" not in bn
    assert f"| {facts['parameters']:,} (1.00×) |" in mn  # a mixture has no parameters of its own
    seconds = {}
    with Path("studies/mine/results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            seconds[row["variant"]] = float(row["seconds"]) / int(row["step"])
    assert f"({seconds['MN'] / seconds['BN']:.2f}×)" in mn
    missing = "MN: the trainer has no QueueResetCallback: mixtures would be fitted to batches of earlier epochs too."
    for text in (missing, "BN, seed 0: odd is not finite at step 5."):
        assert text in printed
        assert f"- {text}" in report
    assert "nan" not in report


def test_a_swapped_baseline_is_refused(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(variants={"BN": VARIANTS["MN"], "MN": VARIANTS["MN"]})) == WRONG
    error = capsys.readouterr().err
    assert "is the baseline of 'MN' and has a MixtureNorm in" in error
    assert error.count("\n") == 1
    assert started == []


def test_a_digits_study_fits_on_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine runs of three variants, as the shipped study has them, that have written their files: 40 lines."""
    facts = {"parameters": 914_634, "missing": [], "peak_memory": 2**30}
    layers = [{"name": f"network.conv{i}.norm", "norm": "mode", "settings": "K=2"} for i in range(1, 5)]

    def write_files(task: Task) -> tuple[int, int]:
        root, variant, seed = task.arguments
        folder = StudyFolder.read(Path(root))
        run = Run(folder.study, variant, int(seed), folder.root)
        rows = [
            {"epoch": i, "step": 20 * (i + 1), "seconds": 2.0 * i, "val_acc": 0.9 + 0.01 * i * (2 - int(seed))}
            for i in range(6)
        ]
        run.metrics_path.write_text(to_csv(rows))
        (run.folder / "model.json").write_text(json.dumps({**facts, "layers": layers if variant == "Mode" else []}))
        run.set_outcome(Outcome("finished", "", 20.0))
        return task.number, 0

    monkeypatch.setattr(jobs, "supervise", write_files)
    variants = {**VARIANTS, "Mode": {"trainer.callbacks+": swap("mode")}}
    base = {**BASE, "trainer": {**BASE["trainer"], "enable_model_summary": True}}
    assert call(write(base=base, variants=variants, seeds=[0, 1, 2])) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "9 runs in studies/mine; each variant is tried with one batch first"
    assert [line.startswith("── run ") for line in lines[1:10]] == [True] * 9
    order = [
        "What was compared",
        "MN, best val_acc",
        "Best val_acc",
        "To the best of BN",
        "Difference to BN",
        "report.md",
    ]
    starts = [next(i for i, line in enumerate(lines) if line.startswith(text)) for text in order]
    assert starts == sorted(starts)
    assert "4 layers, network.conv1.norm to network.conv4.norm: mode, K=2" in lines[starts[0] + 5]


def test_less_can_be_better() -> None:
    assert call(write(metric="val_loss", mode="min", seeds=[0])) == 0
    with Path("studies/mine/results.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["variant"] == "BN"]
    assert f"| {min(losses):.4f} | 1 |" in Path("studies/mine/report.md").read_text()


@pytest.mark.parametrize("max_epochs", [3, -1])
def test_limits(max_epochs: int, capsys: pytest.CaptureFixture[str]) -> None:
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": max_epochs}}
    assert call(write(seeds=[0], base=base), "--limit_epochs", "2", "--limit_samples", "300") == 0
    with Path("studies/mine/results.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "2", "4"]  # two batches of 256 an epoch
    report = Path("studies/mine/report.md").read_text()
    assert "limited to 2 epochs" in report
    assert "limited to 300 training samples an epoch" in report
    assert call("mine.yaml") == WRONG
    assert "another limits" in capsys.readouterr().err


def test_limits_leave_an_evaluation_where_those_are_counted_in_steps() -> None:
    """Every 4 steps of 5 an epoch; limited to 2 steps an epoch, after each of these."""
    trainer = {"max_epochs": -1, "max_steps": 10, "val_check_interval": 4, "check_val_every_n_epoch": None}
    base = {**BASE, "trainer": {**BASE["trainer"], **trainer}}

    def evaluated_at(*limits: str) -> list[str]:
        assert call(write(seeds=[0], base=base), "--fresh", "--only", "BN", "--seed", "0", *limits) == 0
        with Path("studies/mine/runs/BN/seed-0/metrics.csv").open(newline="") as file:
            return [row["step"] for row in csv.DictReader(file) if row["val_acc"]]

    assert evaluated_at() == ["4", "8"]
    assert evaluated_at("--limit_epochs", "2", "--limit_samples", "300") == ["2", "4"]


# --- in parts, and again ------------------------------------------------------------------------------------------


def test_finished_runs_are_not_repeated(started: list[str]) -> None:
    call(write(seeds=[0]))
    started.clear()
    before = Path("studies/mine/runs/MN/seed-0/metrics.csv").stat().st_mtime_ns
    Path("studies/mine/report.md").unlink()
    assert call("mine.yaml") == 0
    assert started == []
    assert Path("studies/mine/runs/MN/seed-0/metrics.csv").stat().st_mtime_ns == before
    assert Path("studies/mine/report.md").exists()


def test_single_runs_and_a_report_of_what_has_finished(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert call("mine.yaml", "--report") == INCOMPLETE
    assert "nothing to report" in capsys.readouterr().err
    assert call("mine.yaml", "--only", "MN", "--seed", "1") == 0
    assert call("mine.yaml", "--report") == 0
    printed = capsys.readouterr().out
    assert "BN, seed 0 has not finished" in printed
    assert "MN, seed 1 has" not in printed
    assert "| MN | 1 | finished |" in Path("studies/mine/report.md").read_text()
    assert started == []
    assert call("mine.yaml", "--only", "BN") == 0
    assert started == ["BN/seed-0", "BN/seed-1"]


def test_more_seeds_and_variants_may_come(started: list[str]) -> None:
    call(write(seeds=[0]))
    started.clear()
    more = {**VARIANTS, "Mode": {"trainer.callbacks+": swap("mode")}}
    assert call(write(seeds=[0, 2], variants=more)) == 0
    assert started == ["Mode/seed-0", "BN/seed-2", "MN/seed-2", "Mode/seed-2"]


def test_a_changed_study_is_noticed(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    call(write(seeds=[0]))
    started.clear()
    changed = {"BN": None, "MN": {"trainer.callbacks+": swap("mixture", n_components=3)}}
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 4}}
    write(seeds=[0], variants=changed, base=base)
    for arguments in ([], ["--report"], ["--only", "BN", "--seed", "0"]):
        assert call("mine.yaml", *arguments) == WRONG
        error = capsys.readouterr().err
        assert "studies/mine holds runs of this study with another base, variant 'MN'" in error
        assert "--fresh" in error
        assert error.count("\n") == 1
    assert started == []
    assert call("mine.yaml", "--folder", "elsewhere") == 0
    assert call("mine.yaml", "--fresh") == 0
    assert len(started) == 4
    (aside,) = Path("studies").glob("mine-*")
    assert (aside / "report.md").exists()


def test_a_study_goes_on_with_its_images_elsewhere(started: list[str]) -> None:
    call(write(seeds=[0]))
    started.clear()
    data = {**BASE["data"], "init_args": {**BASE["data"]["init_args"], "on_device": True}}
    variants = {"BN": {"data.init_args.on_device": False}, "MN": VARIANTS["MN"]}
    assert call(write(seeds=[0, 1], base={**BASE, "data": data}, variants=variants)) == 0
    assert started == ["BN/seed-1", "MN/seed-1"]


def test_two_processes_never_take_the_same_run(capsys: pytest.CaptureFixture[str]) -> None:
    StudyFolder(Path("studies/mine"), load_study(write(seeds=[0])), Limits()).open()
    folder = Path("studies/mine/runs/BN/seed-0")
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        assert call("mine.yaml", "--only", "BN", "--seed", "0") == BUSY
        assert "BN, seed 0 is being run by another process" in capsys.readouterr().err
        assert call("mine.yaml") == INCOMPLETE
    assert "BN, seed 0 has not finished" in capsys.readouterr().out
    assert not (folder / "metrics.csv").exists()
    assert call("mine.yaml", "--only", "BN", "--seed", "0") == 0


@pytest.mark.parametrize("keep", ["best", "last", "both", "none"])
def test_checkpoints_that_stay(keep: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Their size is said beforehand: the files hold a little more than the numbers."""
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    variants = {"BN": {"model.init_args.optimizer": adam, "model.init_args.network": "helpers.study_parts.WideNetwork"}}
    write(variants=variants, seeds=[0, 1])
    assert call("mine.yaml", "--dry-run", "--keep", keep) == 0
    said = re.search(rf"about ([\d.]+) MB stay \(--keep {keep}\), about ([\d.]+) MB are", capsys.readouterr().out)
    assert said is not None
    assert call("mine.yaml", "--keep", keep) == 0
    kept = [f"runs/BN/seed-{seed}/checkpoints/{name}.ckpt" for seed in (0, 1) for name in ("best", "last")
            if keep in (name, "both")]  # fmt: skip
    assert files("runs/*/*/checkpoints/*") == kept
    size = sum(Path("studies/mine", path).stat().st_size for path in kept) / 1e6
    assert float(said[1]) == pytest.approx(size, rel=0.05, abs=0.1)
    assert float(said[2]) > float(said[1]) / 2 - 0.1  # one run is trained at a time
    assert call("mine.yaml", "--keep", "both") == 0
    assert ("2 runs have finished without keeping" in capsys.readouterr().out) == (keep != "both")


# --- nothing but configurations -----------------------------------------------------------------------------------


def test_a_dry_run_prints_what_the_runs_save(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(), "--dry-run", "--limit_epochs", "1") == 0
    assert not Path("studies").exists()
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("---")] == [
        "--- # BN, seed 0", "--- # MN, seed 0", "--- # BN, seed 1", "--- # MN, seed 1"
    ]  # fmt: skip
    _, second, third, _ = yaml.safe_load_all(printed)
    for variant, seed, configuration in (("MN", 0, second), ("BN", 1, third)):
        assert call("mine.yaml", "--only", variant, "--seed", str(seed), "--limit_epochs", "1") == 0
        saved = Path(f"studies/mine/runs/{variant}/seed-{seed}/lightning_logs/version_0/config.yaml")
        assert configuration == yaml.safe_load(saved.read_text())


def test_a_dry_run_of_some_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No data module is made, and whatever the random state is, it stays."""

    @wraps(DigitsDataModule.__init__)  # the parser reads its signature
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a data module is made")

    monkeypatch.setattr(DigitsDataModule, "__init__", refuse)
    before = torch.random.get_rng_state()
    assert call(write(), "--dry-run", "--only", "MN", "--limit_samples", "300") == 0
    printed = capsys.readouterr().out
    assert [configuration["seed_everything"] for configuration in yaml.safe_load_all(printed)] == [0, 1]
    assert printed.count("# limited to 300 training samples an epoch\n") == 2
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "part"),
    [({"baseline": "X"}, "baseline 'X'"), ({"variants": {"BN": {"trainer.max_epox": 3}}}, "'BN' of the study 'mine'")],
)
def test_a_dry_run_of_a_bad_study(changes: dict[str, Any], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(**changes), "--dry-run") == WRONG
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


# --- what goes wrong ----------------------------------------------------------------------------------------------

STUMBLING: dict[str, Any] = {"BN": None, "MN": {"trainer.callbacks+": [swap("mixture"), "helpers.study_parts.Stumble"]}}


def test_an_interrupted_run_goes_on_from_its_last_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    write(seeds=[0], variants=STUMBLING)
    assert call("mine.yaml", "--folder", "whole", "--keep", "last") == 0
    Stumble.times, Stumble.error = 1, KeyboardInterrupt()
    handler = signal.getsignal(signal.SIGINT)
    try:
        status = call("mine.yaml", "--only", "MN", "--seed", "0", "--keep", "last")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from here on
    assert status == INTERRUPTED
    assert call("mine.yaml", "--report") == INCOMPLETE
    assert "MN, seed 0 has not finished" in capsys.readouterr().out
    metrics = Path("studies/mine/runs/MN/seed-0/metrics.csv")
    (first,) = csv.DictReader(metrics.read_text().splitlines())
    metrics.write_text(metrics.read_text().replace(first["seconds"], "1000.0"))
    assert call("mine.yaml", "--keep", "last") == 0
    outcomes = [json.loads(Path(f"studies/mine/runs/{name}/seed-0/outcome.json").read_text()) for name in ("BN", "MN")]
    assert outcomes[0]["seconds"] < 1000 < outcomes[1]["seconds"]  # with what had been spent before the interruption
    weights = [
        torch.load(Path(folder, "runs/MN/seed-0/checkpoints/last.ckpt"), weights_only=True)["state_dict"]
        for folder in ("whole", "studies/mine")
    ]
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name
    rows = [Path(folder, "results.csv").read_text().splitlines() for folder in ("whole", "studies/mine")]
    assert len(rows[0]) == len(rows[1]) == 7
    for one, other in zip(*rows, strict=True):
        assert one.split(",")[:4] == other.split(",")[:4]


def test_a_run_that_fails_is_shown_and_the_others_go_on(started: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Stumble.times, Stumble.error = 1, RuntimeError("it broke\nin two lines")
    assert call(write(variants=STUMBLING)) == INCOMPLETE
    assert len(started) == 4
    assert "MN, seed 0 failed: RuntimeError: it broke" in capsys.readouterr().out
    report = Path("studies/mine/report.md").read_text()
    assert "| MN | 0 | failed: RuntimeError: it broke |" in report
    assert "| MN | 1 | finished |" in report
    started.clear()
    assert call("mine.yaml") == 0
    assert started == ["MN/seed-0"]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"metric": "val_accuracy"}, ["'BN'", "'val_accuracy'", "train_acc, train_loss, val_acc, val_loss"]),
        ({"variants": {"BN": None, "X": {"trainer.max_epox": 3}}}, ["'X'", "does not parse", "trainer.max_epox"]),
        ({"variants": {"BN": None, "X": {"trainer.callbacks+": "Nope"}}}, ["'X'", "does not parse", "Nope"]),
        ({"variants": {"BN": None, "X": {"trainer.callbacks+": swap("mixtur")}}}, ["'X'", "unknown norm 'mixtur'"]),
        ({"variants": {"BN": None, "X": {"model.network": "CIFARConvNet"}}}, ["'X'", "does not run", "CIFARConvNet"]),
        ({"baseline": "X"}, ["'X'", "not a variant"]),
    ],
)
def test_a_wrong_study_is_one_line_before_anything_runs(
    changes: dict[str, Any], parts: list[str], started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(write(**changes)) == WRONG
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mn-lightning compare: ")]
    assert len(error) == 1
    for part in parts:
        assert part in error[0]
    assert started == []
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nope"], "study 'nope' is neither"),
        (["mine.yaml", "--only", "XN"], "--only 'XN' is not a variant; the variants are BN, MN"),
        (["mine.yaml", "--seed", "7"], "--seed 7 is not in the study; its seeds are 0, 1"),
        (["mine.yaml", "--limit_epochs", "0"], "'0' is given; it takes a whole number, 1 or more"),
    ],
)
def test_wrong_arguments_are_said(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert call(*arguments) == WRONG
    assert part in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.processes
def test_processes_that_are_killed_lose_an_epoch_at_most() -> None:
    """The real thing: runs are processes of their own, and the command is killed in the midst of one."""
    slow = {"BN": None, "Slow": {"trainer.callbacks+": "helpers.study_parts.WaitAfterFirstEpoch"}}
    folder = StudyFolder(Path("studies/mine"), load_study(write(seeds=[0], variants=slow)), Limits())
    folder.open()
    assert run_process.main(["studies/mine", "BN", "0"]) == 0
    process = start()
    try:
        wait_until(checkpoint("Slow").exists, 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        kill_group(process)
    wait_until(lambda: not processes_of_runs(), 10)
    printed = Path("printed.txt")
    assert "the same command continues" in printed.read_text()
    assert "Traceback" not in printed.read_text()
    assert not list(Path("studies/mine").glob(".session*"))
    assert not Path("studies/mine/runs/Slow/seed-0/outcome.json").exists()
    printed.unlink()
    process = start(TEST_NO_WAIT="1")
    try:
        assert process.wait(200) == 0, printed.read_text()
    finally:
        kill_group(process)
    assert "run 2 of 2: Slow, seed 0" in printed.read_text()
    assert "run 1 of 2" not in printed.read_text()
    rows = Path("studies/mine/runs/Slow/seed-0/metrics.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["5", "10", "15"]
