"""Processes that die, and what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.processes]
TESTS = Path(__file__).parents[1]
KILLS = 20


@contextmanager
def started(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Python in a session of its own, of which nothing is left behind."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_killed_at_random_moments(tmp_path: Path) -> None:
    with started(str(TESTS / "helpers" / "killed_case.py"), str(tmp_path), str(KILLS), log=tmp_path / "log") as process:
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


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2")


@pytest.mark.parametrize(("launcher", "rank"), [(TORCHRUN, 1), ((), 0), ((), 1)], ids=["torchrun", "0", "1"])
def test_a_process_that_raises_ends_the_job(launcher: tuple[str, ...], rank: int, tmp_path: Path) -> None:
    """Within a minute, under torchrun and where Lightning starts the second process."""
    log = tmp_path / "log"
    with started(*launcher, str(TESTS / "helpers" / "raising_case.py"), str(tmp_path), str(rank), log=log) as process:
        wait_for(lambda: (tmp_path / "raised").exists() or process.poll() is not None, 200)
        pids = [int((tmp_path / f"{rank}.pid").read_text()) for rank in range(2)]
        try:
            wait_for(lambda: process.poll() is not None and not any(map(is_running, pids)), 60)
        finally:
            for pid in filter(is_running, pids):
                os.kill(pid, signal.SIGKILL)
    assert process.returncode != 0
    assert "as a user's code may" in log.read_text()
