"""Execute runs, several at the same time, each in a process of its own with fresh memory and random state."""

import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from joblib import Parallel, delayed, parallel_config

from mn_lightning.compare.runs.display import Display
from mn_lightning.compare.runs.engines import Engine
from mn_lightning.compare.runs.run import Outcome, Run
from mn_lightning.compare.runs.session import Session, answer_probe
from mn_lightning.compare.runs.supervise import (
    BUSY,
    GRACE,
    INTERRUPTED,
    LOST,
    START,
    Task,
    supervise,
    without_current_folder,
)
from mn_lightning.compare.study.study import StudyError
from mn_lightning.utils.files import write_atomically
from mn_lightning.utils.text import say, what_happened

INCOMPLETE = 1
"""The exit status if a run failed or is not finished."""

_TICK = 0.5
_ATTEMPTS = 3


def train_all(runs: Sequence[Run], engine: Engine) -> int:
    """Train the runs that have not finished. A failure of one of them does not affect the others.

    Args:
        runs: of one study.
        engine: executes the runs.

    Returns:
        0; 130 after Ctrl-C and 143 after SIGTERM, both of which end the processes of all runs. Each run's folder says
        how it ended.

    Raises:
        StudyError: a worker of the engine does not share the study's folder.
    """
    waiting = [run for run in runs if not run.finished]
    if not waiting:
        return 0
    probe(engine, waiting[0].root)
    for run in waiting:
        with suppress(OSError):  # the run's process will say what is wrong
            run.open()
    session = Session(waiting[0].root)
    tasks = [_task(number, run, engine, session) for number, run in enumerate(waiting)]
    execution = threading.Thread(target=_execute, args=(engine, tasks, waiting, session), daemon=True)
    try:
        with _ended_by_signals(), Display(runs, engine.jobs) as display:
            execution.start()
            while execution.is_alive():
                session.beat()
                display.update()
                execution.join(_TICK)
            display.update()
        return 0
    except (KeyboardInterrupt, SystemExit) as error:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C asks for the same again
        session.stop()
        if execution.is_alive():
            execution.join(3 * GRACE)
        print("interrupted; the same command continues from the last complete epoch")
        return error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else INTERRUPTED
    finally:
        session.close()


def become(run: Run) -> NoReturn:
    """Become the run's process, so that the signals of a scheduler reach it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, str(START), *_arguments(run)])


def probe(engine: Engine, folder: Path) -> None:
    """Make every worker of a cluster read a file of the study's folder, and write one.

    Raises:
        StudyError: a worker could not do so.
    """
    if engine.on_every_worker is None:
        return
    token = uuid.uuid4().hex[:12]
    question = folder.absolute() / f".probe-{token}"
    write_atomically(question, token)
    try:
        failed = [answer for answer in engine.on_every_worker(partial(answer_probe, question, token)) if answer]
        written = len(list(question.parent.glob(f"{question.name}-*")))
        if failed or not written:
            why = failed[0] if failed else "what they wrote is not there"
            where = folder.absolute()
            raise StudyError(f"{where} is not on storage that all workers share ({why}); give a --folder that is")
        print(f"{engine.label} shares {folder.absolute()}; {engine.jobs} runs at the same time")
    finally:
        for path in question.parent.glob(f"{question.name}*"):
            path.unlink(missing_ok=True)


def _arguments(run: Run) -> tuple[str, ...]:
    return (str(run.root.absolute()), *run.key)


def _task(number: int, run: Run, engine: Engine, session: Session) -> Task:
    log, contact = run.log_path.absolute(), session.path.absolute()
    return Task(number, _arguments(run), log, contact, Path.cwd(), engine.environment, engine.slots)


def _execute(engine: Engine, tasks: Sequence[Task], runs: Sequence[Run], session: Session) -> None:
    """Execute the tasks, at most ``jobs`` at a time, and record ends that a run did not record itself."""
    left = {task.number: task for task in tasks}
    for _ in range(_ATTEMPTS):
        try:
            with without_current_folder(), parallel_config(**{**engine.joblib, "n_jobs": min(engine.jobs, len(left))}):
                # Tasks are dispatched one by one, as slots become free, because runs differ in length.
                parallel = Parallel(batch_size=1, pre_dispatch=engine.jobs, return_as="generator_unordered")
                for ended in parallel([delayed(supervise)(task) for task in left.values()]):
                    if ended is not LOST:
                        number, status = ended
                        del left[number]
                        _note(runs[number], status)
            break
        except Exception as error:
            if session.stopped:
                return
            # An error of the engine, for example a killed worker: the runs continue from their checkpoints.
            say("compare", f"{engine.label}: {what_happened(error)}")
    if not session.stopped:
        for number in left:
            _fail(runs[number], "its machine, or the worker on it, was lost")


def _note(run: Run, status: int | str) -> None:
    """Record that a process was ended from outside. In all other cases the process has recorded the end of its run."""
    if status in (0, BUSY, INTERRUPTED) or (status == INCOMPLETE and run.outcome() is not None):
        return
    if isinstance(status, str):
        _fail(run, status)
    else:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        _fail(run, f"the process ended with {how}")


def _fail(run: Run, why: str) -> None:
    try:
        run.set_outcome(Outcome("failed", why, run.seconds))
    except OSError as error:  # the other runs go on
        say("compare", f"{run.label} failed: {why}; that cannot be written down: {error.strerror}: {error.filename}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    def exit_(signum: int, frame: object) -> NoReturn:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, exit_)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for background processes of a shell script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
