"""Runs at the same time on this machine: joblib's loky, and real processes."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.cluster_cases import checkpoint, processes_of_runs, start, wait_until, write_waiting_study
from helpers.forked import kill_group
from helpers.study_calls import call, swap, write

from mn_lightning.compare.runs import __main__ as run_process
from mn_lightning.compare.runs import jobs

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]


def scores(folder: str) -> list[list[str]]:
    """Everything that was measured, but the seconds."""
    with Path(folder, "results.csv").open(newline="") as file:
        return [[value for key, value in row.items() if key != "seconds"] for row in csv.DictReader(file)]


def test_results_do_not_depend_on_the_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at the same time against the same runs one after the other, in this process; one is killed once."""
    norm = swap("mixture", n_components=2)
    variants: dict[str, Any] = {"BN": None, "MN": {"trainer.callbacks+": [norm, "helpers.study_parts.KillOnce"]}}
    write(variants=variants, seeds=[0])
    process = start("--jobs", "2")
    try:
        assert process.wait(800) == 1, Path("printed.txt").read_text()
        outcome = json.loads(Path("studies/mine/runs/MN/seed-0/outcome.json").read_text())
        assert (outcome["status"], outcome["error"]) == ("failed", "the process ended with signal 9")
        printed = Path("printed.txt").read_text()
        assert "MN, seed 0 failed: the process ended with signal 9" in printed
        assert "BN, seed 0 · finished" in printed
        assert "max_epochs=3" in Path("studies/mine/runs/BN/seed-0/log.txt").read_text()
        process = start("--jobs", "2")
        assert process.wait(800) == 0, Path("printed.txt").read_text()
    finally:
        kill_group(process)
    assert "Restoring states from the checkpoint" in Path("studies/mine/runs/MN/seed-0/log.txt").read_text()
    monkeypatch.setattr(jobs, "supervise", lambda task: (task.number, run_process.main(list(task.arguments))))
    assert call("mine.yaml", "--folder", "alone") == 0
    assert scores("studies/mine") == scores("alone")
    assert len(scores("alone")) == 6


def test_ctrl_c_ends_all_runs_within_seconds() -> None:
    """Of SIGTERM, and of what comes after, see test_command.py."""
    write_waiting_study()
    process = start("--jobs", "2")
    try:
        wait_until(lambda: checkpoint("A").exists() and checkpoint("B").exists())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) == 130
    finally:
        kill_group(process)
    wait_until(lambda: not processes_of_runs(), 10)
    assert "the same command continues" in Path("printed.txt").read_text()
    assert "Traceback" not in Path("printed.txt").read_text()
    assert not list(Path("studies/mine").glob(".session*"))
    assert not list(Path("studies/mine/runs").glob("*/*/outcome.json"))
