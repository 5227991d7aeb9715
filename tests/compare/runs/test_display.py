"""What a terminal and a log file show of runs whose files are written here."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mn_lightning.compare.runs import display as display_module
from mn_lightning.compare.runs.display import Display, time_left
from mn_lightning.compare.runs.run import Outcome, Progress, Run, runs_in
from mn_lightning.compare.study.folder import Limits, StudyFolder
from mn_lightning.compare.study.study import Study


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """Of two variants with two seeds; the first has finished earlier, the second has failed."""
    study = Study("mine", (), {"BN": {}, "MN": {}}, "BN", "val_acc", seeds=(0, 1))
    found = runs_in(StudyFolder(tmp_path, study, Limits()))
    for run in found:
        run.folder.mkdir(parents=True)
    found[0].set_outcome(Outcome("finished", "", 60))
    found[1].set_outcome(Outcome("failed", "ValueError: it broke", 10))
    return found


def write(run: Run, done: float, score: float | None, left: float | None) -> None:
    run.set_progress(Progress(done, score, left))


def test_a_log_file_has_a_line_for_each_run(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    with Display(runs, 2) as display:
        display.update()
        assert capsys.readouterr().out == ""  # that the second has failed is known
        write(runs[1], 0.5, None, 30)
        display.update()
        assert capsys.readouterr().out == ""  # it comes when the run has ended
        write(runs[1], 0.6, 0.75, 20)
        display.update()
        runs[1].set_outcome(Outcome("finished", "", 125))
        display.update()
        # A minute for BN, seed 1, and 2:05 for MN, seed 1; two at a time.
        ended = "── run 2 of 4: MN, seed 0 · finished in 2:05 min, val_acc 0.75 · about 1:32 min left\n"
        assert capsys.readouterr().out == ended
        runs[2].set_outcome(Outcome("failed", "ValueError: it broke", 5))
        display.update()
        where = runs[2].log_path
        assert capsys.readouterr().out == (
            "── run 3 of 4: BN, seed 1 · failed in 0:05 min · about 1:02 min left\n"
            f"   ValueError: it broke; its output is in {where}\n"
        )


def test_a_terminal_has_a_bar_for_each_run(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140, color_system=None)
    monkeypatch.setattr(display_module, "Console", lambda: console)
    with Display(runs, 2) as display:
        write(runs[1], 0.5, 0.875, 30)
        write(runs[2], 0.25, None, None)
        display.update()
    with console.capture() as captured:
        console.print(display._lines.get_renderable())
    first, second, third = captured.get().splitlines()
    assert first.startswith("all runs")
    assert "25%" in first
    assert second.startswith("MN, seed 0")
    for part in ("50%", "val_acc 0.875", "0:30 min left"):
        assert part in second
    assert third.startswith("BN, seed 1")
    assert "25%" in third


def test_the_time_left(runs: list[Run]) -> None:
    """Like runs take as long; the work is shared by the jobs, but no run ends before its own time."""
    assert time_left(runs[2:], 1) == "time left is not known before the first has finished"
    assert time_left(runs, 1) == "about 2:00 min left"  # a minute each for BN, seed 1, and MN, seed 1
    assert time_left(runs, 2) == "about 1:00 min left"
    write(runs[2], 0.1, None, 200)
    assert time_left(runs, 1) == "about 4:20 min left"
    assert time_left(runs, 4) == "about 3:20 min left"
