import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from helpers.study_parts import Stumble

from mn_lightning.compare import command
from mn_lightning.compare.check import check_study
from mn_lightning.compare.runs import __main__ as run_process
from mn_lightning.compare.runs import jobs
from mn_lightning.compare.runs.run import Run
from mn_lightning.compare.runs.supervise import Task
from mn_lightning.compare.study.study import Study


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Stumble.times = 0
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


_TRIED: set[str] = set()


@pytest.fixture(autouse=True)
def _tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has tried with one batch, and found right, is not tried again in the next."""

    def try_once(study: Study) -> None:
        content = {**study.to_dict(), "seeds": study.seeds[:1]}
        written = json.dumps(content, sort_keys=True)
        if written not in _TRIED:
            check_study(study)
            _TRIED.add(written)

    monkeypatch.setattr(command, "check_study", try_once)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Make runs in this process, and return those that were started."""
    begun: list[str] = []

    def in_this_process(task: Task) -> tuple[int, int]:
        root, *names = task.arguments
        begun.append("/seed-".join(names) if len(names) == 2 else f"prepare/{names[0]}")
        return task.number, run_process.main([root, *names])

    def become(run: Run) -> NoReturn:
        sys.exit(run_process.main([str(run.root), *run.key]))

    if "processes" not in request.keywords:
        monkeypatch.setattr(jobs, "supervise", in_this_process)
        monkeypatch.setattr(command, "become", become)
    return begun
