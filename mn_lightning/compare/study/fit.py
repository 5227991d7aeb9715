"""Run the command line of a study's training in LightningCLI: only parse it, only build it, or train."""

from typing import Any, Literal, cast

from jsonargparse import ArgumentError
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from mn_lightning.cli import MNLightningCLI
from mn_lightning.cli.parse_errors import explain
from mn_lightning.compare.study.study import StudyError

Until = Literal["parsed", "model", "built", "trained"]


class StudyCLI(MNLightningCLI):
    """``mn-lightning fit`` for a training of a study.

    Args:
        label: name of the training in messages.
        arguments: from :meth:`Study.arguments` or :meth:`Study.preparation`, and more options.
        until: ``"parsed"`` stops after the configuration, ``"model"`` makes the model too, and ``"built"`` the model
            and the data module. None of these makes a callback, logger or trainer, which may look for files or devices,
            or changes the random state.
        **options: of LightningCLI.

    Raises:
        StudyError: the arguments do not parse.
    """

    def __init__(self, label: str, arguments: list[str], until: Until = "trained", **options: Any) -> None:
        self.label = label
        self.until = until
        super().__init__(
            "fit",
            parser_kwargs=non_exiting_parser("mn-lightning compare"),
            args=arguments,
            **options,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Report in one line what does not parse."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            options = list(self._parser("fit")._option_string_actions)
            text = explain(str(error), "fit", args if isinstance(args, list) else [], options)
            raise StudyError(f"{self.label} does not parse: {text}") from error
        except SystemExit as error:
            raise StudyError(f"{self.label} does not parse: it asks for help, and gives no setting") from error

    def instantiate_classes(self) -> None:
        """Make the objects that ``until`` asks for."""
        if self.until == "parsed":
            return
        given = self.config
        if self.until != "trained":
            self.config = given.clone()
            self.config.fit.trainer.callbacks = None
            self.config.fit.trainer.logger = None
        if self.until == "model":
            self.config.fit.data = None
        super().instantiate_classes()
        self.config = given

    def after_instantiate_classes(self) -> None:
        """Check the model, if there is one."""
        if self.until != "parsed":
            super().after_instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, if something will be trained."""
        return super().instantiate_trainer(**kwargs) if self.until == "trained" else cast(Trainer, None)

    def _run_subcommand(self, subcommand: str) -> None:
        if self.until == "trained":
            super()._run_subcommand(subcommand)

    def _set_seed(self) -> None:
        if self.until == "trained":
            super()._set_seed()


def non_exiting_parser(prog: str) -> dict[str, Any]:
    """Return ``parser_kwargs`` for LightningCLI with which a wrong configuration raises and does not exit."""
    return {"prog": prog, "exit_on_error": False, "fit": {"exit_on_error": False}}
