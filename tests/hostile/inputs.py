"""The description from which hostile inputs are made: damages of any file, values of any type, names, arguments.

A line that is added here becomes an input of every file, key or option that it can stand in.
"""

import datetime
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Link(NamedTuple):
    """A symbolic link in a file's place."""

    target: str


class Folder(NamedTuple):
    """A folder with files in a file's place."""

    files: tuple[str, ...] = ()


Content = bytes | Link | Folder

DAMAGES: dict[str, Callable[[bytes], Content]] = {
    "empty": lambda _: b"",
    "a line break": lambda _: b"\n",
    "half": lambda good: good[: len(good) // 2],
    "without its end": lambda good: good[:-2],
    "twice": lambda good: good + good,
    "binary": lambda _: bytes(range(256)) * 4,
    "zeros": lambda _: bytes(512),
    "bytes behind it": lambda good: good + b"\xe9\xff\n",
    "text": lambda _: b"nothing of this kind\n",
    "a list": lambda _: b"[1, 2, 3]\n",
    "a number": lambda _: b"3\n",
    "brackets": lambda _: b"[" * 100_000,
    "a folder": lambda _: Folder(),
    "a folder with a file": lambda _: Folder(("inside",)),
    "a link to nothing": lambda _: Link("nowhere"),
    "a link to itself": lambda _: Link("."),
}
"""What can happen to any file."""

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "large": 10**30,
    "fraction": 1.5,
    "inf": math.inf,
    "nan": math.nan,
    "text": "x",
    "no text": "",
    "long text": "x" * 10_000,
    "lines": "a\nb",
    "control": "a\x07b",
    "place": "${prepare.x}",
    "letters": "日本",
    "list": [1, "x"],
    "no list": [],
    "mapping": {"a": 1},
    "mapping of mappings": {"BN": {"x": 1}},
    "no mapping": {},
    "deep": DEEP,
}
"""Of any key of JSON or YAML."""

YAML_VALUES: dict[str, Any] = {
    **VALUES,
    "date": datetime.date(2024, 3, 1),
    "time": datetime.datetime(2024, 3, 1, 12),
    "bytes": b"\x00\xff",
    "set": {"x"},
    "keys of several types": {1: 2, None: 3, 1.5: 4, "x": 5, False: 6},
    "set of numbers": {1, 2},
}

YAML_TEXTS: dict[str, str] = {
    "a key twice": "{good}variants: {{}}\n",
    "a variant twice": "variants:\n  BN: {{}}\n  MN: {{}}\n  BN: {{trainer.max_epochs: 1}}\n{rest}",
    "contains itself": "variants: &a {{BN: *a}}\n{rest}",
    "aliases without end": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 24)),
    "an unknown alias": "{good}also: *nothing\n",
    "a tag of Python's": "{good}also: !!python/object/apply:os.system ['touch executed']\n",
    "an unknown tag": "{good}also: !mine 3\n",
    "a wrong number": "{good}images: !!int ''\n",
    "a wrong date": "{good}paper: 2024-99-99\n",
    "half of a character": '{good}paper: "\\ud800"\n',
    "two documents": "{good}---\n{good}",
    "tabs": "base:\n\t- digits\n",
    "merged": "x: &x {{a: 1}}\nalso:\n  <<: *x\n{good}",
    "a list as key": "? [1, 2]\n: 3\n{good}",
    "a value without a key": ": 3\n{good}",
}  # fmt: skip
"""Texts that are special to YAML; ``good`` is the whole good file, ``rest`` the file without variants."""

NAMES = (
    "", " ", ".", "..", "-x", "--leash", "a/b", "/etc", "a\\b", "a\nb", "a\x00b", "x" * 101, "x" * 300, "bn", "BN ",
    "é", "日本", "con", "a:b", "*", "$HOME", "%s", "{0}", "[b]", "'", '"', 3, True, None, 1.5,
)  # fmt: skip
"""Of variants and of what is prepared."""

FILE_NAMES = (
    "mine", "a b.yaml", "a\nb.yaml", "-mine.yaml", "é.yaml", os.fsdecode(b"m\xe9.yaml"), "x" * 250 + ".yaml", ".yaml",
    "[b].yaml", "%s.yaml", "digits",
)  # fmt: skip

WORDS = (
    "", " ", "-1", "0", "x", "nan", "inf", "1e3", "1.5", "١", "9" * 30, "9" * 5000, "-", "--", "--x", "a\nb", "../..",
    "/dev/null", "/dev/null/x", "/proc/self/mem", "x" * 300, "$HOME", "%s", "日本", os.fsdecode(b"\xe9"),
)  # fmt: skip
"""Behind any option."""


def place(path: Path, content: Content) -> None:
    """Put a content in a file's place."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Link):
        path.symlink_to(path.name if content.target == "." else content.target)
    elif isinstance(content, Folder):
        path.mkdir()
        for name in content.files:
            (path / name).touch()
    else:
        path.write_bytes(content)


def with_values(good: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give each key each of the values, leave each key out, and add one."""
    for key in good:
        for name, value in values.items():
            yield f"{key}={name}", {**good, key: value}
        yield f"without {key}", {other: value for other, value in good.items() if other != key}
    yield "a key more", {**good, "nothing": 1}
    yield "keys more", {**good, 3: 1, None: 2, True: 3, 1.5: 4}
