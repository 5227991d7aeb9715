"""``--help TOPIC``: the options of Lightning's Trainer, the arguments of a class, or everything."""

import argparse
import inspect
from importlib import import_module
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from mn_lightning.cli.arguments import UsageError, nearest
from mn_lightning.cli.lightning_cli import MNLightningCLI
from mn_lightning.cli.parse_errors import known_classes
from mn_lightning.cli.quiet import quiet_libraries
from mn_lightning.cli.trainer import CommandTrainer
from mn_lightning.swap.registry import norm_arguments

NORMS_WITH_ARGUMENTS = ("mixture", "mode", "mode_group", "group")


def print_topic(command: str, topic: str) -> None:
    """Print the help of a topic.

    Args:
        command: as ``"fit"``.
        topic: ``"all"``, ``"trainer"``, or the name of a class.

    Raises:
        UsageError: there is no such topic.
    """
    quiet_libraries()
    if topic == "all":
        MNLightningCLI(command, parser_kwargs={"prog": "mn-lightning"}, args=[command, "--help"])  # ends the process
    parser = LightningArgumentParser(usage=argparse.SUPPRESS, add_help=False)
    if topic == "trainer":
        parser.add_lightning_class_args(CommandTrainer, "trainer")
    else:
        parser.add_class_arguments(_class(topic), fail_untyped=False)
    parser.print_help()
    if topic == "NormSwapCallback":
        print("\narguments of the norms, under the layers' names, for example layers: {all: {n_components: 3}}:")
        for norm in NORMS_WITH_ARGUMENTS:
            print(f"  {norm:12}{', '.join(sorted(norm_arguments(norm) or ()))}")


def _class(name: str) -> Any:
    known = known_classes()
    module, _, last = name.rpartition(".")
    try:
        found = getattr(import_module(module), last) if module else known[name]
    except (ImportError, AttributeError, KeyError) as error:
        raise UsageError(
            f"there is no help on {name!r}{nearest(name, [*known, 'trainer', 'all'])}topics are trainer, all, and "
            "classes, such as NormSwapCallback, torch.optim.SGD or my_module.MyClass"
        ) from error
    if not inspect.isclass(found) and not callable(found):
        raise UsageError(f"{name!r} is not a class; topics are trainer, all, and classes")
    return found
