"""Processes that die, and what is left."""

import json
import os
import runpy
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import killed_case
from helpers.forked import FORKING, TESTS, Forked, kill_group, path_of_tests
from torch.distributed import run as torchrun

pytestmark = [pytest.mark.slow, pytest.mark.processes]
KILLS = 20


@contextmanager
def started(function: Callable[..., object], *args: Any, argv: Sequence[str] = (), log: Path) -> Iterator[Forked]:
    """A process in a session of its own, of which nothing is left behind."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    process = Forked(function, *args, log=log, argv=argv, environment={**environment, "PYTHONPATH": path_of_tests()})
    try:
        yield process
    finally:
        kill_group(process)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    with started(killed_case.run, tmp_path, KILLS, log=tmp_path / "log") as process:
        assert process.wait(280) == 0, (tmp_path / "log").read_text()[-2000:]
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert [kill["ended by"] for kill in kills] == [signal.SIGKILL] * KILLS
    # Each went on from the last checkpoint, after all that were there had been read, and together they got somewhere.
    assert [kill["start"] for kill in kills] == [0, *(kill["saved"] for kill in kills[:-1])]
    assert kills[-1]["saved"] > 10
    expected = torch.load(tmp_path / "whole" / "weights.pt")
    found = torch.load(tmp_path / "run" / "weights.pt")
    for name, value in expected.items():
        if "mixture_" not in name:  # the queue starts anew in a process
            assert torch.equal(found[name], value), name


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


SCRIPT = str(TESTS / "helpers" / "raising_case.py")
TORCHRUN = ["torchrun", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2", *FORKING]


@pytest.mark.parametrize(("launcher", "rank"), [(TORCHRUN, 1), ([], 0), ([], 1)], ids=["torchrun", "0", "1"])
def test_a_process_that_raises_ends_the_job(launcher: list[str], rank: int, tmp_path: Path) -> None:
    """Within a minute, under torchrun and where Lightning starts the second process."""
    log, argv = tmp_path / "log", [*launcher, SCRIPT, str(tmp_path), str(rank)]
    main: tuple[Any, ...] = (torchrun.main,) if launcher else (runpy.run_path, SCRIPT, None, "__main__")
    with started(*main, argv=argv, log=log) as process:
        wait_for(lambda: (tmp_path / "raised").exists() or process.poll() is not None, 200)
        pids = [int((tmp_path / f"{rank}.pid").read_text()) for rank in range(2)]
        try:
            wait_for(lambda: process.poll() is not None and not any(map(is_running, pids)), 60)
        finally:
            for pid in filter(is_running, pids):
                os.kill(pid, signal.SIGKILL)
    assert process.poll() != 0
    assert "as a user's code may" in log.read_text()
