"""Processes that are forked from one that has imported everything already, which takes five seconds.

That one is Python's fork server. There is one in a test session; each process that is forked from it has nothing of an
earlier test in it.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import torch

TESTS = Path(__file__).parents[1]

# The last is found only if `start_server` has started the fork server. Without its help, the server would import the
# package that is installed, which need not be the one that is tested.
multiprocessing.set_forkserver_preload(
    ["torch", "torch.distributed", "lightning.pytorch", "torchvision", "helpers.preloaded"]
)

FORKING = ("--start-method=forkserver", "--run-path")
"""Options of torchrun, behind which comes a script: its processes are forked, too."""


def path_of_tests() -> str:
    """A value of ``PYTHONPATH`` with which a process finds the package, and ``helpers``."""
    return os.pathsep.join(filter(None, [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))


def start_server() -> None:
    """Start the fork server, unless it runs."""
    with mock.patch.dict(os.environ, PYTHONPATH=path_of_tests()):
        forkserver.ensure_running()


class Forked:
    """Call ``function(*args)`` in a process of its own, with some of Popen's methods.

    The process leads a session of its own, as the one that a terminal starts does.

    Args:
        log: file to which its output is appended.
        argv: its ``sys.argv``.
        environment: its environment variables.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *args: Any,
        log: Path,
        argv: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        start_server()
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_call, args=(function, args, log.absolute(), list(argv), dict(environment))
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            raise TimeoutError(f"process {self.pid} has not ended in {seconds} seconds")
        return status

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def kill_group(process: "subprocess.Popen[bytes] | Forked") -> None:
    """Kill a process that leads a session, and what it has started there."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def _call(
    function: Callable[..., object], args: tuple[Any, ...], log: Path, argv: list[str], environment: dict[str, str]
) -> None:
    os.setsid()
    with log.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.environ.clear()  # the fork server's is that of the first test
    os.environ.update(environment)
    sys.argv = argv
    torch.set_num_threads(1)
    try:
        function(*args)
    finally:
        threading._shutdown()  # which stops joblib's workers: multiprocessing would wait for them first
