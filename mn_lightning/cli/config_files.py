"""Check configuration files before they are parsed: whether they are YAML, and of a possible size."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from mn_lightning.cli.arguments import UsageError
from mn_lightning.utils.strict_yaml import StrictLoader, fault


def check_config_files(files: Iterable[str]) -> None:
    """Check the configurations that were given with ``--config``.

    Args:
        files: paths, or configurations as text.

    Raises:
        UsageError: one is not YAML, is not a mapping from names, contains itself, or is too large; one line with its
            name.
    """
    for file in files:
        _check(file)


def _check(file: str) -> None:
    written_out = file.lstrip().startswith("{")
    name = "the configuration" if written_out else file
    try:
        text = file if written_out else Path(file).read_bytes().decode()
        loader = StrictLoader(text)
        root = loader.get_single_node()
        if root is not None:
            loader.construct_document(root)  # finds invalid tags and numbers
    except Exception as error:  # errors of many kinds, because anything may stand in a file
        raise UsageError(f"{name} {fault(error)}") from error
    if not isinstance(root, yaml.MappingNode):
        what = "is empty" if root is None else "is not a mapping"
        raise UsageError(f"{name} {what}; it takes names and values, such as model: {{class_path: ImageClassifier}}")
    for key, value in root.value:
        if key.value == "trainer" and value.tag.rpartition(":")[2] not in ("map", "null", "str"):
            raise UsageError(f"{name}: trainer takes settings, such as trainer: {{max_epochs: 3}}")
        if key.tag != "tag:yaml.org,2002:str":
            line = key.start_mark.line + 1
            raise UsageError(
                f"{name} has a key at line {line} that is not a name; it takes model, data, trainer and others"
            )
