import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.study_parts import Stumble

from mn_lightning.compare import command
from mn_lightning.compare.runs import __main__ as run_process
from mn_lightning.compare.runs import jobs
from mn_lightning.compare.runs.run import Run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Stumble.times = 0
    previous = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Make runs in this process, and return those that were started."""
    begun: list[str] = []

    def in_this_process(run: Run) -> int:
        begun.append(str(run.folder.relative_to(run.root)).removeprefix("runs/"))
        return run_process.main([str(run.root), *run.key])

    if "processes" not in request.keywords:
        monkeypatch.setattr(jobs, "train_in_own_process", in_this_process)
        monkeypatch.setattr(command, "train_in_own_process", in_this_process)
        monkeypatch.setattr(command, "become", lambda run: sys.exit(run_process.main([str(run.root), *run.key])))
    return begun
