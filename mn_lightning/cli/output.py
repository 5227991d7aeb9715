"""Standard output that can be lost, as of ``| head -1`` or on a full disk, without what the command does being lost."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOST = 1
CLOSED = 141
"""Exit statuses: output could not be written; the reader of a pipe has gone, as shells say of SIGPIPE, 128 + 13."""


@contextmanager
def lasting_output() -> Iterator[None]:
    """Go on when standard output can no longer be written to: say so in one line, once, and leave the rest out.

    Libraries write their progress in the middle of a training, which an error there would end.

    Raises:
        SystemExit: at the end, with a status of its own if output was lost and all else went well.
    """
    output, _ = _Lasting.take_over("stdout"), _Lasting.take_over("stderr")
    try:
        yield
    except SystemExit as end:
        if end.code:
            raise
    sys.stdout.flush()
    if output is not None and output.error is not None:
        sys.exit(CLOSED if isinstance(output.error, BrokenPipeError) else LOST)


class _Lasting(io.RawIOBase):
    """Writes where ``stream`` does until that fails, and nowhere from then on.

    Attributes:
        error: why it failed.
    """

    error: OSError | None = None

    def __init__(self, stream: io.TextIOWrapper, name: str) -> None:
        self.stream = stream  # which closes its file when nobody holds it
        self.raw: Any = getattr(stream.buffer, "raw", stream.buffer)
        self.label = name

    @classmethod
    def take_over(cls, name: str) -> "_Lasting | None":
        """Put one below ``sys.stdout`` or ``sys.stderr``; None for what is no stream of the system."""
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: the next file that is opened would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            return None
        if not isinstance(stream, io.TextIOWrapper):
            return None
        stream.flush()
        lasting = cls(stream, name)
        # Of a terminal that cannot show each letter, something is shown.
        text = io.TextIOWrapper(
            lasting if stream.write_through else io.BufferedWriter(lasting),  # type: ignore[type-var]
            stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, text)
        return lasting

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return int(self.raw.write(data) or 0)
            except OSError as error:
                self.error = error
                if self.label == "stdout":
                    sys.stderr.write(
                        f"mn-lightning: cannot write to standard output: {error.strerror}; the command goes on, the "
                        "rest of its output is lost\n"
                    )
        return memoryview(data).nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self.raw.fileno())

    def isatty(self) -> bool:
        return bool(self.raw.isatty())
