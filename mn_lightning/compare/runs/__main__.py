"""``python -m mn_lightning.compare.runs FOLDER VARIANT SEED`` is the process of one run.

``FOLDER NAME`` is that of a preparation, and ``--leash`` comes from :func:`supervise`. Everything else is read from the
study's folder, so that a process on another machine needs nothing but the folder.
"""

import sys
from pathlib import Path

from mn_lightning.compare.runs.jobs import INCOMPLETE
from mn_lightning.compare.runs.run import BusyError, Preparation, Run
from mn_lightning.compare.runs.supervise import BUSY, GRACE, INTERRUPTED, LEASH, end_with_standard_input
from mn_lightning.compare.runs.train import train
from mn_lightning.compare.study.folder import Limits, StudyFolder


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
    folder = StudyFolder.read(Path(root))
    try:
        if seed:
            run = Run(folder.study, name, int(seed[0]), folder.root)
            # After the loss of a supervisor, its process may need a moment to end.
            outcome = train(run, folder.limits, folder.keep, wait=4 * GRACE if supervised else 0)
        else:
            # Limits are for the runs: all of them need the same preparation. Several processes may wait for it.
            run = Preparation(folder.study, name, 0, folder.root)
            outcome = train(run, Limits(), folder.keep, wait=-1)
    except BusyError as error:
        sys.stderr.write(f"mn-lightning compare: {error}\n")
        return BUSY
    except SystemExit:  # Lightning's, after Ctrl-C and SIGTERM
        return INTERRUPTED
    if outcome.status == "failed":
        sys.stderr.write(f"mn-lightning compare: {run.label} failed: {outcome.error}\n")
        return INCOMPLETE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
