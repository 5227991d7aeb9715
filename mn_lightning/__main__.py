"""``mn-lightning``, and ``python -m mn_lightning``."""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from mn_lightning.cli.arguments import (
    HELP,
    TRAINER_COMMANDS,
    UsageError,
    config_files,
    resolve,
    split_command,
    with_underscores,
)
from mn_lightning.cli.help import help_text
from mn_lightning.cli.output import lasting_output
from mn_lightning.utils.imports import without_garbage_collection
from mn_lightning.utils.text import in_one_line


def main(args: Sequence[str] | None = None) -> None:
    """Run ``mn-lightning``; ``args`` is for tests, the command line otherwise."""
    given = list(sys.argv[1:] if args is None else args)
    try:
        with lasting_output() if args is None else nullcontext():
            if args is None:
                _find_modules_here()
            _run(given)
    except UsageError as error:
        sys.stderr.write(in_one_line(f"mn-lightning: {error}") + "\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("mn-lightning: interrupted\n")
        sys.exit(130)


def _find_modules_here() -> None:
    """Make modules in the current folder importable for a command that was typed into a shell.

    Raises:
        UsageError: the current folder is gone.
    """
    # Both the installed command and `python -m` find a user's own modules in the current folder. That folder comes last
    # in the search, so that a file random.py in it does not take the place of the standard library's.
    try:
        here = os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder has been removed; change to another") from error
    if sys.path[0] in ("", here):
        del sys.path[0]
    if here not in sys.path:
        sys.path.append(here)


def _run(given: list[str]) -> None:
    """Import only what the command needs: ``--version`` answers at once."""
    if given == ["--version"]:
        from mn_lightning.utils.version import __version__

        print(f"mn-lightning {__version__}")
        return
    if not given or given[0] in HELP:
        print(help_text(), end="")
        return
    command, rest = split_command(given)
    if asked := [position for position, arg in enumerate(rest) if arg in HELP]:
        topic = rest[asked[0] + 1 : asked[0] + 2]
        if command in TRAINER_COMMANDS and topic and not topic[0].startswith("-"):
            from mn_lightning.cli.topics import print_topic

            print_topic(command, topic[0])
        else:
            print(help_text(command), end="")
        return
    if command == "compare":
        with without_garbage_collection():
            from mn_lightning.compare.command import compare
        compare([{"--dry_run": "--dry-run"}.get(arg, arg) for arg in with_underscores(rest)])
    elif command == "studies":
        with without_garbage_collection():
            from mn_lightning.compare.listing import list_studies
        list_studies(rest)
    else:
        resolved = resolve(command, [arg for arg in rest if arg != "--traceback"])
        from mn_lightning.cli.config_files import check_config_files

        check_config_files(config_files(resolved))
        with without_garbage_collection():
            from mn_lightning.cli.run import run
        run(command, resolved, traceback="--traceback" in rest)


if __name__ == "__main__":
    main()
