"""Studies that real engines execute, whose runs wait for each other, so that all run at the same time."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from helpers.forked import Forked, path_of_tests
from helpers.study_calls import BASE, write

from mn_lightning.__main__ import main


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": path_of_tests(), "OMP_NUM_THREADS": "1", **more}


def write_waiting_study(names: tuple[str, ...] = ("A", "B")) -> None:
    """A study whose runs wait after their first epoch until a file called ``go`` is there."""
    wait = {"trainer.callbacks+": "helpers.study_parts.WaitForFile"}
    trainer = {**BASE["trainer"], "max_epochs": 2, "callbacks": None}
    write(base={**BASE, "trainer": trainer}, variants=dict.fromkeys(names, wait), baseline=names[0], seeds=[0])


def start(*arguments: str, **more: str) -> Forked:
    """Start the command as a terminal does: Ctrl-C reaches its group."""
    argv = ["mn-lightning", "compare", "mine.yaml", *arguments]
    return Forked(main, log=Path("printed.txt"), argv=argv, environment=environment(**more))


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, Path("printed.txt").read_text()[-3000:]
        time.sleep(0.05)


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
