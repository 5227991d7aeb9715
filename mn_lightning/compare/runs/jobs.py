"""Where runs execute: each in a process of its own, which starts with a clean memory and random state."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from mn_lightning.compare.runs.run import Outcome, Run

INCOMPLETE = 1
INTERRUPTED = 130
"""Exit statuses: a run failed or is not finished, Ctrl-C."""


def train_all(runs: Sequence[Run]) -> int:
    """Train one after the other those that have not finished.

    Returns:
        :data:`INTERRUPTED` after Ctrl-C, 0 otherwise. How each run ended is in its folder.
    """
    for position, run in enumerate(runs, 1):
        if run.finished:
            continue
        left = _time_left(runs[position - 1 :], runs)
        print(f"── run {position} of {len(runs)}: {run.label} · {left}", flush=True)
        started = time.monotonic()
        status = train_in_own_process(run)
        if status == INTERRUPTED:
            print("interrupted; the same command goes on from the last whole epoch")
            return INTERRUPTED
        if status not in (0, INCOMPLETE):
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            run.set_outcome(Outcome("failed", f"the process ended with {how}", time.monotonic() - started))
    return 0


def train_in_own_process(run: Run) -> int:
    """Train, and return the exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    process = subprocess.Popen(_command(run))
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the run's process too, which ends without a further checkpoint.
        process.wait()
        return INTERRUPTED
    except BaseException:
        process.terminate()
        process.wait()
        raise


def become(run: Run) -> NoReturn:
    """Go on as the run's process, so that the signals of a scheduler reach it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, _command(run))


def _command(run: Run) -> list[str]:
    return [sys.executable, "-m", "mn_lightning.compare.runs", str(run.root), *run.key]


def _terminate(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


def _time_left(waiting: Sequence[Run], runs: Sequence[Run]) -> str:
    """Estimate from the runs that have finished, of the same variant where there is one."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        outcome = run.outcome()
        if outcome is not None and outcome.status == "finished":
            seconds.setdefault(run.variant, []).append(outcome.seconds)
    if not seconds:
        return "time left is not known before the first has finished"
    every = [value for values in seconds.values() for value in values]
    total = 0.0
    for run in waiting:
        if run.outcome() is None:
            like = seconds.get(run.variant, every)
            total += sum(like) / len(like)
    minutes, rest = divmod(round(total), 60)
    return f"about {minutes}:{rest:02} min left"
