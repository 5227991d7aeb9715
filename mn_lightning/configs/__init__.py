"""Configurations for ``mn-lightning --config NAME``, and studies for ``mn-lightning compare NAME``."""

import os
from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent
WORK = _FOLDER / "studies" / "work.json"
"""File with the work of one run of each variant of the shipped studies."""

_OPTIONS = ("--config", "-c")


def config_names() -> list[str]:
    """Names of the shipped configurations.

    Examples:
        >>> "digits" in config_names()
        True
    """
    return _names(_FOLDER)


def study_names() -> list[str]:
    """Names of the shipped studies."""
    return _names(_FOLDER / "studies")


def config_path(value: str) -> Path:
    """Return the path of a configuration: of an existing file, or of a shipped one by its name.

    Raises:
        FileNotFoundError: it is neither.
    """
    return _path(value, _FOLDER, "configuration")


def study_path(value: str) -> Path:
    """Return the path of a study: of an existing file, or of a shipped one by its name.

    Raises:
        FileNotFoundError: it is neither.
    """
    return _path(value, _FOLDER / "studies", "study")


def resolve_config_names(args: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations in a command line by their paths.

    Raises:
        FileNotFoundError: a configuration is neither a file nor shipped.
    """
    resolved: list[str] = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if position > 0 and args[position - 1] in _OPTIONS:
            resolved.append(_resolve(arg))
        elif equals and option in _OPTIONS:
            resolved.append(f"{option}={_resolve(value)}")
        else:
            resolved.append(arg)
    return resolved


def _resolve(value: str) -> str:
    written_out = value.lstrip().startswith("{")
    return value if written_out else str(config_path(value))


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _path(value: str, folder: Path, kind: str) -> Path:
    if os.path.isfile(value):  # unlike pathlib's, it does not raise for a name that no file can have
        return Path(value)
    if value in _names(folder):
        return folder / f"{value}.yaml"
    raise FileNotFoundError(f"{kind} {value!r} is neither a file nor shipped; shipped are {', '.join(_names(folder))}")
