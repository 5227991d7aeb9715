"""The parser of a command's arguments, and how a command reports errors."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from mn_lightning.compare.runs.supervise import INTERRUPTED
from mn_lightning.compare.study.study import StudyError
from mn_lightning.utils.text import say

WRONG = 2
"""The exit status if nothing was run because the arguments or files are wrong."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, without lines of usage before them."""

    def error(self, message: str) -> NoReturn:
        """Raise.

        Raises:
            StudyError: always.
        """
        raise StudyError(f"{message}; see {self.prog} --help")


@contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """End the process with one line and an exit status after an error in the arguments, files or folders.

    Args:
        command: as ``"compare"``.

    Raises:
        SystemExit: with the status 2, or 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(command, "interrupted")
        sys.exit(INTERRUPTED)
    except StudyError as error:
        say(command, str(error))
        sys.exit(WRONG)
    except OSError as error:
        place = error.filename2 or error.filename
        say(command, f"{place}: {error.strerror}" if place else str(error))
        sys.exit(WRONG)
