"""Run a subcommand for a shell: an error becomes one line and an exit status."""

import re
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from mn_lightning.cli.lightning_cli import MNLightningCLI
from mn_lightning.cli.parse_errors import explain
from mn_lightning.cli.quiet import quiet_libraries
from mn_lightning.utils.text import in_one_line, say, what_happened

FAILED = 1
WRONG = 2
"""Exit statuses: a run failed; nothing was run, because the arguments or files are wrong."""

_SEVERAL_TYPES = "Does not validate against any of the Union subtypes"
"""How jsonargparse begins its message about an error in a class, which lists everything that is accepted there."""

_SAY_WHAT_TO_DO = (ValueError, RuntimeError, MisconfigurationException)
"""The texts of these errors can be read alone; other texts need the error's name to be understood."""


def run(command: str, args: Sequence[str], traceback: bool = False) -> None:
    """Run a subcommand.

    Args:
        command: as ``"fit"``.
        args: what follows the command, with paths in place of configurations' names.
        traceback: whether to raise an error instead of writing a line.

    Raises:
        SystemExit: with status 1 or 2 after an error.
    """
    quiet_libraries(fits=command == "fit")
    cli = MNLightningCLI.__new__(MNLightningCLI)  # before the try: the message about an error needs its parsers
    try:
        cli.__init__(  # type: ignore[misc]
            command,
            parser_kwargs={"prog": "mn-lightning", "exit_on_error": False, command: {"exit_on_error": False}},
            args=[command, *args],
        )
    except Exception as error:
        if traceback:
            raise
        parsers: dict[str, Any] = getattr(cli, "_subcommand_parsers", {})
        options = list(parsers[command]._option_string_actions) if command in parsers else []
        text = explain(str(error), command, args, options) if isinstance(error, ArgumentError) else _line(error)
        say(command, text)
        sys.exit(FAILED if has_run(getattr(cli, "trainer", None)) else WRONG)


def has_run(trainer: Trainer | None) -> bool:
    """Whether at least one batch of any stage has been completed."""
    if trainer is None:
        return False
    loops = (trainer.fit_loop.epoch_loop, trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
    return any(loop.batch_progress.total.completed for loop in loops)


def _line(error: BaseException) -> str:
    while str(error).startswith(_SEVERAL_TYPES) and (cause := error.__cause__ or error.__context__):
        error = cause  # the error of the class that was given
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if "loading state_dict" in str(error):
        return _other_weights(str(error))
    if "Traceback (most recent call last)" in str(error):  # an error in a process of a data loader
        return what_happened(error)
    text = in_one_line(str(error))
    if type(error) in _SAY_WHAT_TO_DO or type(error).__module__.startswith("mn_lightning"):
        return text
    return f"{type(error).__name__}: {text} (--traceback shows where)"


def _other_weights(message: str) -> str:
    """Say in one line what torch's message says in one line for each weight."""
    missing, unexpected = (
        re.findall(r'"([^"]+)"', "".join(re.findall(rf"{kind} key\(s\) in state_dict: (.*)", message)))
        for kind in ("Missing", "Unexpected")
    )
    sizes = re.findall(r"size mismatch for (\S+): .*?shape torch.Size\((.*?)\).*?is torch.Size\((.*?)\)", message)
    found = ((missing, "not in it"), (unexpected, "not in the model"))
    parts = [f"{names[0]}{_more(names)} {where}" for names, where in found if names]
    parts += [f"{name} has shape {then} in it and {now} in the model{_more(sizes)}" for name, then, now in sizes[:1]]
    return (
        f"the checkpoint belongs to another model than the configuration: {'; '.join(parts) or in_one_line(message)}; "
        "give the configuration of its training"
    )


def _more(names: Sequence[object]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
