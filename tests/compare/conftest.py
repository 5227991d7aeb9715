import itertools
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers.study_calls import call
from helpers.study_parts import Stumble

from mn_lightning.compare import command


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

    def in_this_process(arguments: Sequence[str]) -> int:
        assert arguments[:3] == [sys.executable, "-m", "mn_lightning"]
        options = list(arguments[4:])
        given = dict(itertools.pairwise(options))
        prepared = "--prepare" in given
        begun.append(f"prepare/{given['--prepare']}" if prepared else f"{given['--only']}/seed-{given['--seed']}")
        return call(*options)

    if "processes" not in request.keywords:
        monkeypatch.setattr(command, "_in_own_process", in_this_process)
    return begun
