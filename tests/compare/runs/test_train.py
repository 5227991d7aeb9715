"""How runs end: what was measured, what a model does to its process, and files that are damaged."""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.study_calls import BASE, call, files, swap, write
from helpers.study_parts import Stumble
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mn_lightning.compare.runs import __main__ as run_process
from mn_lightning.compare.runs import run as run_module
from mn_lightning.compare.runs.jobs import INCOMPLETE
from mn_lightning.compare.runs.recorder import from_csv, read_rows
from mn_lightning.compare.runs.supervise import INTERRUPTED
from mn_lightning.compare.study import folder as folder_module
from mn_lightning.compare.study.folder import StudyFolder
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.origin import read_origin
from mn_lightning.compare.study.study import Limits

RUN = Path("studies/mine/runs/BN/seed-0")


def train(trainer: dict[str, Any] | None = None, variant: dict[str, Any] | None = None, **changes: Any) -> int:
    """Train the one run of a study, and return the status of its process."""
    base = {**BASE, "trainer": {**BASE["trainer"], **(trainer or {})}}
    study = load_study(write(base=base, variants={"BN": variant}, seeds=[0], **changes))
    StudyFolder(Path("studies/mine"), study, Limits()).open()
    return run_process.main(["studies/mine", "BN", "0"])


def outcome() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RUN / "outcome.json").read_text())
    return content


class Odd(Callback):
    """Logs a metric with a value for each epoch, written as text: a study's file takes no infinity."""

    def __init__(self, values: list[str]) -> None:
        self.values = [float(value) for value in values]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            pl_module.log("odd", self.values[trainer.current_epoch])


def odd(*values: float) -> dict[str, Any]:
    return {"trainer.callbacks+": {"class_path": f"{__name__}.Odd", "init_args": {"values": list(map(str, values))}}}


class Exit(Callback):
    """A model that ends its process."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sys.exit("enough")


# --- what was measured --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "part"),
    [
        ({"max_epochs": 0}, "max_epochs is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"limit_train_batches": 0}, "limit_train_batches is 0"),
        ({"limit_val_batches": 0}, "no validation batches (limit_val_batches is 0"),
        ({"check_val_every_n_epoch": 9}, "after 3 epochs and 15 steps, before the first validation (check_val_every_n"),
        ({"max_epochs": -1, "max_steps": 4, "val_check_interval": 5, "check_val_every_n_epoch": None}, "and 4 steps"),
    ],
)
def test_a_run_that_measured_nothing_has_failed(
    trainer: dict[str, Any], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(trainer) == INCOMPLETE
    assert outcome()["status"] == "failed"
    assert outcome()["error"].startswith("nothing was measured: val_acc has no value, as ")
    assert part in outcome()["error"]
    assert "BN, seed 0 failed: nothing was measured" in capsys.readouterr().err


def test_a_metric_that_is_not_logged() -> None:
    assert train(metric="val_accuracy") == INCOMPLETE
    assert outcome()["error"] == (
        "nothing was measured: val_accuracy has no value, as the run logged val_acc, val_loss, train_acc, train_loss"
    )


def test_values_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    assert train({"max_epochs": 3}, odd(math.inf, 0.5, math.nan), metric="odd") == 0
    assert [row["odd"] for row in read_rows(RUN / "metrics.csv")][1] == 0.5
    assert outcome()["status"] == "finished"
    assert call("mine.yaml", "--report") == 0
    report = Path("studies/mine/report.md").read_text()
    assert "nan" not in report
    assert "0.5000" in report, report


def test_a_run_without_a_finite_value_has_failed() -> None:
    assert train({"max_epochs": 2}, odd(math.nan, -math.inf), metric="odd", mode="min") == INCOMPLETE
    assert outcome()["error"] == "no value of odd is finite; the last of 2 is -inf"
    assert call("mine.yaml", "--report") == INCOMPLETE


def test_the_best_weights_are_not_those_of_infinity() -> None:
    changes = {"metric": "odd", "mode": "max"}
    study = load_study(write(variants={"BN": odd(0.5, math.inf, 0.25)}, seeds=[0], **changes))
    StudyFolder(Path("studies/mine"), study, Limits(), "best").open()
    assert run_process.main(["studies/mine", "BN", "0"]) == 0
    best = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 0


# --- the process --------------------------------------------------------------------------------------------------


def test_a_model_that_ends_its_process_has_failed() -> None:
    assert train(variant={"trainer.callbacks+": f"{__name__}.Exit"}) == INCOMPLETE
    assert outcome()["error"] == "the model ended the process, by sys.exit('enough')"


def test_an_exit_in_the_trial_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(variants={"BN": {"trainer.callbacks+": f"{__name__}.Exit"}})) == 2
    assert "does not run: it ends the process, by sys.exit('enough')" in capsys.readouterr().err
    assert not Path("studies").exists()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SIGTERMException])
def test_an_exit_after_a_signal_is_no_failure(raised: type[BaseException]) -> None:
    assert train(variant={"trainer.callbacks+": "helpers.study_parts.Stumble"}) == 0
    (RUN / "outcome.json").unlink()
    Stumble.times, Stumble.error = 1, raised()
    assert run_process.main(["studies/mine", "BN", "0"]) == INTERRUPTED
    assert not (RUN / "outcome.json").exists()


@pytest.mark.parametrize("arguments", [["nothing", "BN", "0"], ["studies/mine", "XN", "0"], ["studies/mine", "BN"]])
def test_a_process_without_its_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    StudyFolder(Path("studies/mine"), load_study(write(seeds=[0])), Limits()).open()
    assert run_process.main(arguments) == INCOMPLETE
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no study.json" in line or "has no run" in line


# --- files --------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_set_aside(capsys: pytest.CaptureFixture[str]) -> None:
    assert train({"max_epochs": 2}) == 0
    whole = [row["val_acc"] for row in read_rows(RUN / "metrics.csv")]
    (RUN / "outcome.json").unlink()
    (RUN / "checkpoints" / "last.ckpt").write_bytes(b"PK half of a file")
    assert run_process.main(["studies/mine", "BN", "0"]) == 0
    line = (
        "BN, seed 0: studies/mine/runs/BN/seed-0/checkpoints/last.ckpt is damaged; the run starts anew; it is last.ckpt"
    )
    assert f"{line}.damaged now\n" in capsys.readouterr().err
    assert (RUN / "checkpoints" / "last.ckpt.damaged").read_bytes() == b"PK half of a file"
    assert [row["val_acc"] for row in read_rows(RUN / "metrics.csv")] == whole


def test_a_damaged_checkpoint_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    StudyFolder(Path("studies/mine"), load_study(write(seeds=[0], variants={"BN": None})), Limits()).open()
    (RUN / "checkpoints").mkdir(parents=True)
    (RUN / "checkpoints" / "last.ckpt").mkdir()
    assert call("mine.yaml") == 0
    assert "checkpoints/last.ckpt.damaged was damaged and is set aside" in capsys.readouterr().out
    assert files("runs/*/*/checkpoints/*") == ["runs/BN/seed-0/checkpoints/last.ckpt.damaged"]


def test_what_a_run_was_made_of_is_kept() -> None:
    assert train({"max_epochs": 1}, {"data.init_args.batch_size": 300, "data.init_args.on_device": False}) == 0
    origin = read_origin(RUN)
    assert origin is not None
    assert origin.settings["variant"] == {"data.init_args.batch_size": 300}  # where batches are made decides nothing
    assert origin.settings["base"][0]["trainer"]["max_epochs"] == 1
    assert "batch_size: 300" in origin.configuration
    (maker,) = origin.made_by
    assert torch.__version__.startswith(maker.versions["torch"])
    assert "CPU threads" in maker.machine


def test_machines_are_added_where_a_run_goes_on() -> None:
    assert train({"max_epochs": 1}) == 0
    content = json.loads((RUN / "run.json").read_text())
    content["made_by"][0]["machine"] = "another"
    for kept, machines in ((True, ["another", "here"]), (False, ["here"])):
        (RUN / "run.json").write_text(json.dumps(content))
        (RUN / "outcome.json").unlink()
        study = load_study("mine.yaml")
        StudyFolder(Path("studies/mine"), study, Limits(), "last").open()
        if kept:  # as after an interruption
            (RUN / "checkpoints").mkdir(exist_ok=True)
            torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.1"}, RUN / "checkpoints" / "last.ckpt")
        else:
            (RUN / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
        run_process.main(["studies/mine", "BN", "0"])
        origin = read_origin(RUN)
        assert origin is not None
        assert [maker.machine == "another" for maker in origin.made_by] == [name == "another" for name in machines]


@pytest.mark.parametrize(
    "text",
    ["", "epoch,step,seconds,a\n0,1,2,3", "epoch,step,seconds,a\n0,1,2\n", "epoch,step,seconds,a\n0,1,2,3,4\n",
     "epoch,step,seconds,a\n0,1,2,x\n", "step,seconds,a\n1,2,3\n", "epoch,step,seconds,a\n0,nan,2,3\n"],
)  # fmt: skip
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(ValueError, match=r"it |a line|could not"):
        from_csv(text)


def test_results_have_each_training_value_once() -> None:
    """Validation inside an epoch comes before the epoch's training values are there."""
    trainer = {"max_epochs": 2, "val_check_interval": 2}
    assert call(write(base={**BASE, "trainer": {**BASE["trainer"], **trainer}}, variants={"BN": None}, seeds=[0])) == 0
    with Path("studies/mine/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "5", "7", "9", "10"]
    assert [bool(row["train_loss"]) for row in rows] == [False, False, True, False, False, True]
    assert [bool(row["val_loss"]) for row in rows] == [True, True, False, True, True, False]


def test_a_variant_that_comes_back_with_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    first = {"BN": None, "X": {"trainer.callbacks+": swap("mixture", n_components=2)}}
    assert call(write(variants=first, seeds=[0])) == 0
    assert call(write(variants={"BN": None}, seeds=[0])) == 0
    capsys.readouterr()
    other = {"BN": None, "X": {"trainer.callbacks+": swap("mixture", n_components=3)}}
    for arguments in ([], ["--report"]):
        assert call(write(variants=other, seeds=[0]), *arguments) == 2
        assert "holds runs of this study with another variant 'X'" in capsys.readouterr().err
    assert call(write(variants=first, seeds=[0]), "--report") == 0


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The run cannot even write down that it has failed."""

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    study = load_study(write(seeds=[0]))
    StudyFolder(Path("studies/mine"), study, Limits()).open()
    monkeypatch.setattr(run_module, "write_atomically", full)
    assert run_process.main(["studies/mine", "BN", "0"]) == INCOMPLETE
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mn-lightning")]
    assert "BN, seed 0 failed: [Errno 28] No space left on device: 'studies/mine/runs/BN/seed-0/" in line
    monkeypatch.setattr(folder_module, "write_atomically", full)
    assert call("mine.yaml", "--only", "BN", "--seed", "0") == 2
    assert capsys.readouterr().err == "mn-lightning compare: studies/mine/study.json: No space left on device\n"
