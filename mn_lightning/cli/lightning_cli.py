"""LightningCLI with the package's models, data and callbacks, and subcommands of ours."""

import inspect
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

# After these imports, the classes can be given by their short names.
import mn_lightning.callbacks
import mn_lightning.data
import mn_lightning.models  # noqa: F401
from mn_lightning.callbacks import RandomStateCallback
from mn_lightning.cli.parser import CommandParser
from mn_lightning.cli.trainer import CommandTrainer
from mn_lightning.utils.checkpoint_file import read_checkpoint

_NAMED_CHECKPOINTS = ("best", "last", "hpc")


class SaveConfigBesideEarlier(SaveConfigCallback):
    """Saves a run's configuration under another name if an earlier run has left its own in the folder.

    That happens without a logger, because all runs share a folder then. ModelCheckpoint names its files in the same
    way.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save ``config.yaml``, or ``config-v1.yaml`` and so on."""
        folder = trainer.log_dir or trainer.default_root_dir
        taken = trainer.strategy.broadcast(sorted(os.listdir(folder)) if os.path.isdir(folder) else [])
        stem, suffix = os.path.splitext(self.config_filename)
        version = 0
        while not self.already_saved and not self.overwrite and self.config_filename in taken:
            version += 1
            self.config_filename = f"{stem}-v{version}{suffix}"
        super().setup(trainer, pl_module, stage)


class MNLightningCLI(LightningCLI):
    """LightningCLI with ``layers``, ``inspect`` and ``fid``, and a test after ``fit`` if a configuration asks for it.

    A run that is resumed goes on with the random states of its checkpoint: a ``RandomStateCallback`` is always there.

    Only the configuration says what is built. From a checkpoint only numbers are taken: hyperparameters in it change
    nothing, and it is read with ``weights_only=True``, also from a web address. (The one way to read a checkpoint that
    holds more is ``weights_only: false`` in a configuration, which can run code anyway.)

    Args:
        command: the only subcommand to offer; None offers all. Making the parser of each subcommand takes time.
        **kwargs: of LightningCLI.
    """

    def __init__(self, command: str | None = None, **kwargs: Any) -> None:
        self._commands = tuple(_subcommands()) if command is None else (command,)
        super().__init__(
            **{
                "trainer_class": CommandTrainer,
                "parser_class": CommandParser,
                "save_config_callback": SaveConfigBesideEarlier,
                **kwargs,
            }
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # LightningCLI has a static method
        """Return the subcommands, each with the arguments that are not read from the command line."""
        return {name: skipped for name, skipped in _subcommands().items() if name in self._commands}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that knows the names of other subcommands' settings."""
        parser = super().init_parser(**kwargs)
        if isinstance(parser, CommandParser):
            parser.of_other_commands = _settings_of_commands()
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the package's own arguments."""
        parser.add_argument("--test_after_fit", type=bool, default=False, help="Test the trained weights after fit.")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without Lightning's warning about a command line that is given as a list."""
        if isinstance(args, list):
            self.config = parser.parse_args(args)
        else:
            super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is. Lightning would override it with the checkpoint's hyperparameters."""

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint and the folder first, because making the model and its data can take minutes."""
        root = self._get(self.config, "trainer.default_root_dir")
        if root and Path(root).is_file():
            raise ValueError(f"trainer.default_root_dir is {str(root)!r}, which is a file; give a folder")
        if not self.subcommand or not (path := self._get(self.config, "ckpt_path")):
            return
        local = path not in _NAMED_CHECKPOINTS and not _is_elsewhere(str(path)) and not Path(path).is_dir()
        if local and self._get(self.config, "weights_only") is not False:
            read_checkpoint(path)

    def after_instantiate_classes(self) -> None:
        """Refuse an optimizer for a module that makes its own."""
        for name in ("optimizer", "lr_scheduler"):
            if self._get(self.config, name) is not None and not self.model.automatic_optimization:
                model = type(self.model).__name__
                raise ValueError(
                    f"--{name} cannot be given for {model}, which makes and steps its own optimizers; leave it out "
                    f"(mn-lightning fit --help {model} shows the model's settings)"
                )

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        return super()._instantiate_trainer(config, [*callbacks, RandomStateCallback()])

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if kwargs.get("weights_only", False) is None:
            kwargs["weights_only"] = True  # None would unpickle what comes from a web address
        return kwargs

    def after_fit(self) -> None:
        """Test the weights that the training ended with."""
        if self.config.fit.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule)


def _is_elsewhere(path: str) -> bool:
    return "://" in path or path.partition(":")[0] == "registry"


def _subcommands() -> dict[str, set[str]]:
    ours = {name: {"model", "datamodule"} for name in ("layers", "inspect", "fid")}
    return {**LightningCLI.subcommands(), **ours}


def _settings_of_commands() -> frozenset[str]:
    return frozenset(
        name
        for command, skipped in _subcommands().items()
        for name in inspect.signature(getattr(CommandTrainer, command)).parameters
        if name != "self" and name not in skipped
    )
