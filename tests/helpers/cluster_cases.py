"""Studies that real engines execute, whose runs wait for each other, so that all run at the same time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from helpers.study_calls import BASE, write

HELPERS = Path(__file__).parents[1]


def environment(**more: str) -> dict[str, str]:
    paths = [str(HELPERS), str(HELPERS.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def write_waiting_study(names: tuple[str, ...] = ("A", "B")) -> None:
    """A study whose runs wait after their first epoch until a file called ``go`` is there."""
    wait = {"trainer.callbacks+": "helpers.study_parts.WaitForFile"}
    trainer = {**BASE["trainer"], "max_epochs": 2, "callbacks": None}
    write(base={**BASE, "trainer": trainer}, variants=dict.fromkeys(names, wait), baseline=names[0], seeds=[0])


def start(*arguments: str, **more: str) -> "subprocess.Popen[bytes]":
    """Start the command as a terminal does: Ctrl-C reaches its group."""
    command = [sys.executable, "-m", "mn_lightning", "compare", "mine.yaml", *arguments]
    with Path("printed.txt").open("ab") as printed:
        return subprocess.Popen(
            command, env=environment(**more), start_new_session=True, stdout=printed, stderr=printed
        )


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, Path("printed.txt").read_text()[-3000:]
        time.sleep(0.2)


def checkpoint(name: str) -> Path:
    return Path(f"studies/mine/runs/{name}/seed-0/checkpoints/last.ckpt")


def processes_of_runs() -> list[int]:
    """Processes on this machine whose command line names the study's folder."""
    folder = str(Path("studies/mine").absolute()).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
