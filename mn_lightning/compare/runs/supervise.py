"""Start the process of one run, and make sure that it ends: the function that joblib's workers execute.

Only the standard library and filelock are used, so that a worker starts fast and needs little memory.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from mn_lightning.compare.runs.session import Watch

INTERRUPTED = 130
"""The exit status of a run that was told to end."""

BUSY = 75
"""The exit status of a process whose run another process is training; ``EX_TEMPFAIL`` of Unix."""

LOST = None
"""Returned instead of a number and a status: the machine, or the worker on it, is gone."""

LEASH = "--leash"
"""With this argument, a run's process ends as soon as its standard input is closed."""

GRACE = 5.0
"""Seconds between the request to end and the killing of the process."""

START = Path(__file__).with_name("start.py")
"""The program of a run's process."""

_SAFE_PATH = "PYTHONSAFEPATH"
_POLL = 0.2


@dataclass(frozen=True)
class Slot:
    """A share of this machine.

    Attributes:
        cores: of the CPU.
        gpus: names as in ``CUDA_VISIBLE_DEVICES``; None gives the run all of them.
    """

    cores: tuple[int, ...]
    gpus: str | None = None


@dataclass(frozen=True)
class Task:
    """A run, and everything that is needed to start its process.

    Attributes:
        number: identifies the run.
        arguments: of :data:`START`.
        log: file to which the process's output is appended.
        session: file of the :class:`~mn_lightning.compare.runs.session.Session`.
        cwd: the folder to start in, in which a user's own modules are found.
        environment: environment variables to set.
        slots: shares of this machine, of which the run takes a free one; none on a cluster, whose scheduler assigns
            machines.
    """

    number: int
    arguments: tuple[str, ...]
    log: Path
    session: Path
    cwd: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    slots: tuple[Slot, ...] = ()


def supervise(task: Task) -> tuple[int, int | str]:
    """Start the run's process, wait for its end, and end it if the session ends.

    Returns:
        The task's number, and the exit status of the process: the negative number of a signal that killed it, or
        :data:`INTERRUPTED` if the session has ended. If the process could not be started, a text with the reason
        instead of the status.
    """
    try:
        return task.number, _run(task)
    except OSError as error:
        return task.number, f"its process could not be started: {error.strerror}: {error.filename}"


@contextlib.contextmanager
def without_current_folder() -> Iterator[None]:
    """Make processes that are started now find modules where this one finds them, and not in the current folder first.

    This is for joblib's workers. Before Python 3.11 it has no effect.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE_PATH)
        if before is not None:
            os.environ[_SAFE_PATH] = before


def _run(task: Task) -> int:
    if threading.current_thread() is threading.main_thread():  # of a joblib worker
        # Ctrl-C reaches all processes of a terminal. The command alone answers it, and ends the session.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = Watch(task.session)
    if watch.is_stopped():
        return INTERRUPTED
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with _free_slot(task) as slot, task.log.open("ab") as log:
        # The log is a file, whatever the terminal can show.
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace", **task.environment}
        environment.pop(_SAFE_PATH, None)
        if slot is not None and slot.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.gpus
        process = subprocess.Popen(
            [sys.executable, str(START), *task.arguments, LEASH],
            stdin=subprocess.PIPE,  # it closes when this process ends, in whatever way
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=task.cwd if task.cwd.is_dir() else task.session.parent,  # this folder is on all machines
            env=environment,
            start_new_session=True,
        )
        try:
            if slot is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, slot.cores)
            while process.poll() is None:
                if watch.is_stopped():
                    _end(process)
                    return INTERRUPTED
                time.sleep(_POLL)
            return process.returncode
        finally:
            _end(process)


def end_with_standard_input() -> None:
    """Make this process end when its standard input is closed, because its supervisor is gone then."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the workers of its data loaders
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


@contextlib.contextmanager
def _free_slot(task: Task) -> Iterator[Slot | None]:
    """Take a slot that no other run of the session has. There are as many slots as runs at the same time."""
    if not task.slots:
        yield None
        return
    while True:
        for number, slot in enumerate(task.slots):
            lock = FileLock(f"{task.session}.slot-{number}")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield slot
            finally:
                lock.release()
            return
        time.sleep(_POLL)
