"""What only a process of its own shows: terminals, names that are no text, signals, folders that go away."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cluster_cases import (
    checkpoint,
    environment,
    processes_of_runs,
    wait_until,
    write_waiting_study,
)
from helpers.forked import kill_group
from helpers.study_calls import write

pytestmark = [pytest.mark.slow, pytest.mark.processes]

COMMAND = [sys.executable, "-m", "mn_lightning"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines_of(*args: str, status: int, command: list[str] = COMMAND) -> list[str]:
    """Call a command in a terminal that shows ASCII alone, and return its lines on standard error."""
    done = subprocess.run(
        [*command, *args], env=environment(PYTHONIOENCODING="ascii", LC_ALL="C"), capture_output=True, timeout=250
    )
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stderr.decode().splitlines()


def test_an_ascii_terminal_and_names_that_are_no_text() -> None:
    assert lines_of("studies", status=0) == []  # the table has dashes and crosses
    (line,) = lines_of("compare", write(), "--report", "--folder", os.fsdecode(b"m\xe9"), status=1)
    assert line.startswith("mn-lightning compare: no run in m")
    (line,) = lines_of("compare", os.fsdecode(b"m\xe9.yaml"), status=2)
    assert line.startswith("mn-lightning compare: study 'm")


def test_a_folder_that_is_gone() -> None:
    shell = ["bash", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "bash", *COMMAND]
    assert lines_of("studies", status=2, command=shell) == [
        "mn-lightning: the current folder has been removed; change to another"
    ]


def test_a_signal_to_the_command_alone_ends_its_runs() -> None:
    """Started as a script's background process is, which ignores Ctrl-C; with a file random.py beside the study."""
    write_waiting_study(("A",))
    Path("random.py").write_text("raise SystemExit(9)")
    with Path("printed.txt").open("ab") as printed:
        process = subprocess.Popen(
            ["bash", "-c", 'trap "" INT; exec "$@"', "bash", *COMMAND, "compare", "mine.yaml", "--jobs", "2"],
            env=environment(), start_new_session=True, stdout=printed, stderr=printed,
        )  # fmt: skip
    try:
        wait_until(checkpoint("A").exists, 250)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        kill_group(process)
    wait_until(lambda: not processes_of_runs(), 20)
    assert "Traceback" not in Path("printed.txt").read_text()
    assert not list(Path("studies/mine/runs").glob("*/*/outcome.json"))
