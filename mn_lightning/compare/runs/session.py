"""Let a command reach the processes of its runs on any machine: through files in the study's folder.

Only the standard library and filelock are used, because the supervisors of runs import this.
"""

import os
import socket
import time
import uuid
from pathlib import Path

from filelock import FileLock

PATIENCE = 60.0
"""Runs end after so many seconds without a sign of life from their command."""

_STOP = "stop"


class Session:
    """The command's side of the file.

    Args:
        folder: the study's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f".session-{uuid.uuid4().hex[:12]}"
        self.stopped = False
        self._lock = FileLock(f"{self.path}.lock")  # shows that this process is alive, even between two runs
        self._lock.acquire(blocking=False)
        self._beats = 0
        self.beat()

    def beat(self) -> None:
        """Show that the command is alive; has to be called every few seconds."""
        self._beats += 1
        self.path.write_text(f"go {self._beats}")

    def stop(self) -> None:
        """Make all runs end."""
        self.stopped = True
        self.path.write_text(_STOP)

    def close(self) -> None:
        """Remove the file and those beside it; runs that still go on end too."""
        self._lock.release()
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink(missing_ok=True)


class Watch:
    """The supervisor's side of the file.

    Args:
        path: of the session's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = ""
        self._changed = time.monotonic()

    def is_stopped(self) -> bool:
        """Whether the run has to end."""
        try:
            # The file is opened anew each time, because network file systems look for new content when a file is
            # opened.
            content = self.path.read_text()
        except FileNotFoundError:
            return True
        except OSError:
            content = self._content  # a network file system may be away for a while
        if content != self._content:
            self._content, self._changed = content, time.monotonic()
        # Clocks of other machines are not compared: what counts is that the content changes.
        return content == _STOP or time.monotonic() - self._changed > PATIENCE


def answer_probe(question: Path, token: str) -> str:
    """On another machine, read a file that the command wrote, and write one beside it.

    Returns:
        What went wrong; empty if all went well.
    """
    where = f"{socket.gethostname()}-{os.getpid()}"
    try:
        if question.read_text() != token:
            return f"{where} reads another file"
        question.with_name(f"{question.name}-{where}").write_text(token)
    except OSError as error:
        return f"{where}: {error}"
    return ""
