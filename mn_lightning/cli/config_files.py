"""Look at configuration files before they are parsed: whether they are YAML, and of a size that can be."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from mn_lightning.cli.arguments import UsageError
from mn_lightning.utils.text import in_one_line

MOST_VALUES = 100_000
"""In one file, where every alias counts as all that it stands for: a few lines of aliases can stand for millions."""


def check_config_files(files: Iterable[str]) -> None:
    """Check what was given with ``--config``.

    Args:
        files: paths, or configurations that are written out.

    Raises:
        UsageError: one is no YAML, no mapping from names, or contains itself or too much; in one line with its name.
    """
    for file in files:
        _check(file)


def _check(file: str) -> None:
    written_out = file.lstrip().startswith("{")
    name = "the configuration" if written_out else file
    try:
        text = file if written_out else Path(file).read_bytes().decode()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{name} is no text in UTF-8, see line {line}; save it as such") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{name} is no YAML{where}: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{name} is no YAML: {in_one_line(str(error))}") from error
    if not isinstance(root, yaml.MappingNode):
        what = "is empty" if root is None else "is no mapping"
        raise UsageError(f"{name} {what}; it takes names and values, as model: {{class_path: ImageClassifier}}")
    for key, value in root.value:
        if key.value == "trainer" and value.tag.rpartition(":")[2] not in ("map", "null", "str"):
            raise UsageError(f"{name}: trainer takes settings, as trainer: {{max_epochs: 3}}")
        if key.tag != "tag:yaml.org,2002:str":
            line = key.start_mark.line + 1
            raise UsageError(
                f"{name} has a key at line {line} that is no name; it takes model, data, trainer and others"
            )
    if _values(root, {}, set(), name) > MOST_VALUES:
        raise UsageError(f"{name} holds more than {MOST_VALUES} values, its aliases (*NAME) written out; write fewer")


def _values(node: yaml.Node, known: dict[int, int], around: set[int], name: str) -> int:
    """Count the values of a node, each alias as all that it stands for."""
    if node.tag.startswith("tag:yaml.org,2002:python/"):
        line = node.start_mark.line + 1
        raise UsageError(f"{name} has a tag of Python's at line {line}; name classes with class_path instead")
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in around:
        raise UsageError(f"{name} contains itself, by an alias of the value at line {node.start_mark.line + 1}")
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        around.add(id(node))
        known[id(node)] = 1 + sum(_values(part, known, around, name) for part in parts)
        around.remove(id(node))
    return known[id(node)]
