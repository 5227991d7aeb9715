"""YAML in which nothing is lost or grows without end, and its faults in words."""

from typing import Any

import yaml

from mn_lightning.utils.text import in_one_line, shown

_KINDS = "tag:yaml.org,2002:"
_MERGE = f"{_KINDS}merge"

MOST_VALUES = 100_000
"""In one file, where every alias counts as all that it stands for: a few lines of aliases can stand for millions."""

MOST_LEVELS = 100
"""Of values in values."""


class RefusedError(ValueError):
    """YAML that this package does not take. The text goes on behind a file's name."""


class StrictLoader(yaml.SafeLoader):
    """Reads as ``yaml.safe_load`` does, and refuses what would be wrong without a word, or never end.

    Refused are a key that is given twice, a value that contains itself, more than :data:`MOST_VALUES` values or
    :data:`MOST_LEVELS` levels, and tags of Python's.

    Examples:
        >>> yaml.load("{a: 1, b: 2, a: 3}", StrictLoader)
        Traceback (most recent call last):
        mn_lightning.utils.strict_yaml.RefusedError: gives 'a' twice, at line 1; keep one of them
    """

    tags: frozenset[str] | None = None
    """Kinds of values that are taken; None for all of YAML's."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the text's root, with everything in it checked."""
        root = super().get_single_node()
        if root is not None and _values(root, {}, [], self.tags) > MOST_VALUES:
            raise RefusedError(f"holds more than {MOST_VALUES} values, its aliases (*NAME) written out; write fewer")
        return root


class PlainLoader(StrictLoader):
    """Takes what JSON can hold, and nothing else.

    Examples:
        >>> yaml.load("{a: !!set {b}}", PlainLoader)
        Traceback (most recent call last):
        mn_lightning.utils.strict_yaml.RefusedError: has a set at line 1; write a list or a mapping
    """

    tags = frozenset(_KINDS + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map"))


def fault(error: Exception) -> str:
    """Say what is wrong with a file that could not be read with this loader, to go on behind its name.

    Args:
        error: that reading it as UTF-8 has raised, or parsing it.
    """
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"is not text in UTF-8, see line {line}; save it as such"
    if isinstance(error, RecursionError):
        return "is not YAML that can be read: too many values in values"
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    text = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
    return f"is not YAML{where}: {in_one_line(text or type(error).__name__)}"


def _values(node: yaml.Node, known: dict[int, int], around: list[yaml.Node], tags: frozenset[str] | None) -> int:
    """Count the values of a node, each alias as all that it stands for."""
    line = node.start_mark.line + 1
    _check_value(node, line, tags)
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if any(node is outer for outer in around):
        raise RefusedError(f"contains itself, by an alias of the value at line {line}")
    if len(around) >= MOST_LEVELS:
        raise RefusedError(f"has more than {MOST_LEVELS} levels of values in values at line {line}")
    if id(node) not in known:
        parts: list[Any] = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, tags)
            parts = [part for key, value in node.value for part in ((value,) if key.tag == _MERGE else (key, value))]
        around.append(node)
        known[id(node)] = 1 + sum(_values(part, known, around, tags) for part in parts)
        around.pop()
    return known[id(node)]


def _check_value(node: yaml.Node, line: int, tags: frozenset[str] | None) -> None:
    if node.tag.startswith(f"{_KINDS}python/"):
        raise RefusedError(f"has a tag of Python's at line {line}; name classes with class_path instead")
    if not isinstance(node, yaml.ScalarNode):
        if tags is not None and node.tag not in tags:
            raise RefusedError(f"has a {node.tag.removeprefix(_KINDS)} at line {line}; write a list or a mapping")
        return
    text = shown(node.value)
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise RefusedError(f"has half of a character at line {line}: {text}; write it whole")
    if tags is not None and (node.tag not in tags or node.value.lower().lstrip("+-") in (".nan", ".inf")):
        kind = "float" if node.tag in tags else node.tag.removeprefix(_KINDS)
        raise RefusedError(f"has a {kind} at line {line}: {node.value}; for a text write {text}")


def _check_keys(node: yaml.MappingNode, tags: frozenset[str] | None) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if tags is not None and key.tag not in (_MERGE, f"{_KINDS}str", f"{_KINDS}int"):
            given = shown(key.value) if isinstance(key, yaml.ScalarNode) else key.tag.removeprefix(_KINDS)
            raise RefusedError(f"has a key at line {line} that is not a name: {given}; for a text write it in quotes")
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        if (key.tag, key.value) in lines:
            before = lines[key.tag, key.value]
            where = f"at line {line}" if before == line else f"at lines {before} and {line}"
            raise RefusedError(f"gives {shown(key.value)} twice, {where}; keep one of them")
        lines[key.tag, key.value] = line
