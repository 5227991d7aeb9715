"""Write a file in one step: a reader, in any process, finds the old content or the whole new one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which takes its place at the end, or goes away after an error.

    Args:
        path: in a folder that exists.

    Examples:
        >>> path = Path(tempfile.mkdtemp(), "weights.pt")
        >>> with replacing(path) as partial:
        ...     _ = partial.write_bytes(b"...")
        >>> path.read_bytes()
        b'...'
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)  # mkstemp's files are for their owner alone; results are for the group
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text in UTF-8, with its line ends as they are."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode())


def free_path(path: Path) -> Path:
    """Return this path, or the first with a number behind it, where nothing is.

    Examples:
        >>> path = Path(tempfile.mkdtemp(), "last.ckpt")
        >>> path.touch()
        >>> free_path(path).name
        'last.ckpt-2'
    """
    paths = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(free for free in paths if not os.path.lexists(free))
