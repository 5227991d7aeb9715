"""``python -m mn_lightning.compare.runs FOLDER VARIANT SEED`` is the process of one run.

``start.py`` does the same, whatever files the current folder holds.

``FOLDER NAME`` is the process of a preparation. :func:`supervise` adds ``--leash``. Everything else is read from the
study's folder, so a process on another machine needs only that folder.
"""

import sys
from contextlib import suppress
from pathlib import Path

from mn_lightning.compare.runs.jobs import INCOMPLETE
from mn_lightning.compare.runs.run import BusyError, Outcome, preparations, runs_in
from mn_lightning.compare.runs.supervise import BUSY, GRACE, INTERRUPTED, LEASH, end_with_standard_input
from mn_lightning.compare.runs.train import train
from mn_lightning.compare.study.folder import StudyFolder
from mn_lightning.compare.study.study import Limits, StudyError
from mn_lightning.utils.text import say


def main(args: list[str]) -> int:
    """Train one run.

    Args:
        args: the study's folder, and :attr:`Run.key`.

    Returns:
        The exit status.
    """
    supervised = LEASH in args
    if supervised:
        end_with_standard_input()
    root, name, *seed = (arg for arg in args if arg != LEASH)
    try:
        folder = StudyFolder.read(Path(root))
        runs = {tuple(run.key): run for run in (*runs_in(folder), *preparations(folder.study, folder.root))}
        run = runs.get((name, *seed))
        if run is None:
            raise StudyError(f"{root} has no run {' '.join((name, *seed))}")
    except (StudyError, OSError) as error:
        return _said(str(error))
    try:
        if seed:
            # If a supervisor was lost, its process may need a moment to end.
            outcome = train(run, folder.limits, folder.keep, wait=4 * GRACE if supervised else 0)
        else:
            # Limits apply to the runs only, because all of them need the same preparation. Several processes may wait
            # for it.
            outcome = train(run, Limits(), folder.keep, wait=-1)
    except BusyError as error:
        _said(str(error))
        return BUSY
    except (StudyError, OSError) as error:  # OSError: the run's folder cannot be written, or the disk is full
        with suppress(OSError):
            run.set_outcome(Outcome("failed", str(error), run.seconds))
        return _said(f"{run.label} failed: {error}")
    except (SystemExit, KeyboardInterrupt):  # Lightning's SystemExit, after Ctrl-C and SIGTERM
        return INTERRUPTED
    return _said(f"{run.label} failed: {outcome.error}") if outcome.status == "failed" else 0


def _said(text: str) -> int:
    say("compare", text)
    return INCOMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
