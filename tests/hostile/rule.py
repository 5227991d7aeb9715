"""The one rule for all inputs: a status, a line at most, no traceback, and nothing else in the folder is changed."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

OURS = re.compile(r"^mn-lightning\b.*$", re.MULTILINE)


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    line: str
    out: str


def end_of(
    command: Callable[[], object],
    may_change: Sequence[str] = (),
    statuses: Iterable[int] = (0, 1, 2),
    only_ours: bool = True,
    set_aside: bool = False,
) -> Ended:
    """Call a command in the current folder, and hold it to the rule.

    Args:
        command: ends by SystemExit, or returns its status.
        may_change: regular expressions of paths that it may write.
        statuses: that it may end with.
        set_aside: a line more may stand for each file that was renamed.
        only_ours: nothing but its own line may stand on standard error; else Lightning writes there too.
    """
    before = snapshot()
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command()
        except SystemExit as end:
            status = end.code
    printed, written = (_text(stream) for stream in (out, err))
    assert status in statuses, (status, written)
    assert "Traceback" not in written + printed, written + printed
    lines = OURS.findall(written)
    if set_aside:
        lines = [line for line in lines if not line.endswith(" now")]
    assert len(lines) == (status != 0), (status, written)
    assert not only_ours or written.splitlines() == lines, written
    assert all(len(line) < 800 for line in lines), lines
    assert not lines or written.endswith(f"{lines[0]}\n"), written
    after = snapshot()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    unexpected = {path for path in changed if not any(re.fullmatch(pattern, path) for pattern in may_change)}
    assert not unexpected, unexpected
    assert isinstance(status, int)
    return Ended(status, lines[0] if lines else "", printed)


def snapshot() -> dict[str, bytes | str]:
    """Return what is in the current folder: files with their content, links with their targets, folders."""
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk("."):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path)] = f"to {os.readlink(path)}"
            else:
                found[str(path)] = path.read_bytes() if path.is_file() else "a folder"
    return found


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()
