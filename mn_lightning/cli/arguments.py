"""Read the command line, before anything heavy is imported: the command, configurations, spellings of options."""

import difflib
from collections.abc import Iterable, Sequence

from mn_lightning.configs import config_names, resolve_config_names

TRAINER_COMMANDS = ("fit", "validate", "test", "predict", "layers", "inspect", "fid")
"""Commands that take a configuration with a model, data and a trainer."""

COMMANDS = (*TRAINER_COMMANDS, "compare", "studies")

HELP = ("-h", "--help")

_CONFIG = ("-c", "--config")


class UsageError(ValueError):
    """One line that says what is wrong with a command line."""


def split_command(args: Sequence[str]) -> tuple[str, list[str]]:
    """Split a command line into the command and its arguments.

    ``--config NAME`` may stand before the command.

    Args:
        args: at least one argument.

    Raises:
        UsageError: there is no such command.

    Examples:
        >>> split_command(["-c", "digits", "fit", "--trainer.max_epochs=1"])
        ('fit', ['-c', 'digits', '--trainer.max_epochs=1'])
    """
    before = 0
    while before < len(args) and args[before].partition("=")[0] in _CONFIG:
        before += 1 if "=" in args[before] else 2
    if before >= len(args):
        raise UsageError(f"no command is given; the commands are {', '.join(COMMANDS)}")
    command = args[before]
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS)
        raise UsageError(f"there is no command {command!r}{hint}the commands are {_list(COMMANDS)}")
    return command, [*args[:before], *args[before + 1 :]]


def resolve(command: str, args: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations by their paths, and write options with underscores.

    Args:
        command: one of ``TRAINER_COMMANDS``.
        args: the arguments of the command.

    Raises:
        UsageError: a configuration is neither a file nor shipped, or ``--config`` is missing before it.

    Examples:
        >>> resolve("test", ["--ckpt-path", "last.ckpt"])
        ['--ckpt_path', 'last.ckpt']
    """
    if args and not args[0].startswith("-"):
        known = args[0] in config_names() or args[0].endswith((".yaml", ".yml"))
        what = f"write --config {args[0]}" if known else "write --config FILE for a configuration"
        raise UsageError(f"{args[0]!r} stands without an option; {what}")
    if args and args[-1] in _CONFIG:
        raise UsageError(f"{args[-1]} needs a file or a name; shipped are {_list(config_names())}")
    try:
        return resolve_config_names(with_underscores(args))
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error


def with_underscores(args: Iterable[str]) -> list[str]:
    """Write ``--limit-epochs`` as ``--limit_epochs``.

    Examples:
        >>> with_underscores(["--limit-epochs=2", "--only", "a-b"])
        ['--limit_epochs=2', '--only', 'a-b']
    """
    return [_with_underscores(arg) if arg.startswith("--") else arg for arg in args]


def config_files(args: Sequence[str]) -> list[str]:
    """Return the values of all ``--config`` options, in order.

    Examples:
        >>> config_files(["-c", "a.yaml", "--config=b.yaml"])
        ['a.yaml', 'b.yaml']
    """
    files = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option in _CONFIG:
            files.append(value if equals else args[position + 1])
    return files


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'fit'? "`` with the known name most like ``name``; ``"; "`` if none is like it."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}? " if found else "; "


def _with_underscores(arg: str) -> str:
    option, equals, value = arg.partition("=")
    return "--" + option[2:].replace("-", "_") + equals + value


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
