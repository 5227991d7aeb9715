"""The parser of the command line: it can read the configuration that any other subcommand has saved."""

from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser


class CommandParser(LightningArgumentParser):
    """A parser that ignores settings of other subcommands in a configuration file.

    A run saves all its settings, such as ``ckpt_path`` and ``weights_only`` of ``fit``, which ``layers`` does not have.

    Attributes:
        of_other_commands: names of the settings that any subcommand takes.
    """

    of_other_commands: frozenset[str] = frozenset()

    def parse_string(self, *args: Any, **kwargs: Any) -> Namespace:
        """Parse the text of a configuration."""
        # The name of this argument differs between jsonargparse's versions.
        for name in {"content", "cfg_str"} & kwargs.keys():
            kwargs[name] = self._without_settings_of_others(kwargs[name])
        texts = map(self._without_settings_of_others, args[:1])
        parsed: Namespace = super().parse_string(*texts, *args[1:], **kwargs)
        return parsed

    def _without_settings_of_others(self, text: str) -> str:
        """Cut lines out of the text. Reading it and writing it again could change values: YAML reads 1e-3 as text."""
        try:
            content = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            return text  # jsonargparse will say what is wrong
        if not isinstance(content, yaml.MappingNode):
            return text
        ends = [key.start_mark.index for key, _ in content.value[1:]] + [content.value[-1][1].end_mark.index]
        for (key, _), end in reversed(list(zip(content.value, ends, strict=True))):
            if key.value in self.of_other_commands and f"--{key.value}" not in self._option_string_actions:
                text = text[: key.start_mark.index] + text[end:]
        return text
