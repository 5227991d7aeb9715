"""Configurations for ``mn-lightning --config NAME`` that come with the package."""

from collections.abc import Sequence
from pathlib import Path

_FOLDER = Path(__file__).parent
_OPTIONS = ("--config", "-c")


def config_names() -> list[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def config_path(value: str) -> str:
    """Path for what was given as ``--config``: an existing file as it is, a shipped configuration by its name.

    Raises:
        FileNotFoundError: it is neither.
    """
    if Path(value).is_file():
        return value
    if value in config_names():
        return str(_FOLDER / f"{value}.yaml")
    raise FileNotFoundError(
        f"--config {value!r} is neither a file nor a shipped configuration; shipped are {', '.join(config_names())}"
    )


def resolve_config_names(args: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations in a command line by their paths.

    Raises:
        FileNotFoundError: a configuration is neither a file nor shipped.
    """
    resolved: list[str] = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if position > 0 and args[position - 1] in _OPTIONS:
            resolved.append(config_path(arg))
        elif equals and option in _OPTIONS:
            resolved.append(f"{option}={config_path(value)}")
        else:
            resolved.append(arg)
    return resolved
