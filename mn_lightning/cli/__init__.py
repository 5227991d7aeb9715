"""The command line: Lightning's own subcommands with the package's models, data and callbacks, and subcommands of ours.

Importing this package imports nothing heavy; a command that trains imports Lightning.
"""

from typing import TYPE_CHECKING

from mn_lightning.utils.lazy import lazy_names

if TYPE_CHECKING:
    from mn_lightning.cli.lightning_cli import MNLightningCLI
    from mn_lightning.cli.trainer import CommandTrainer

__all__ = ["CommandTrainer", "MNLightningCLI"]

__getattr__ = lazy_names(__name__, {"CommandTrainer": "trainer", "MNLightningCLI": "lightning_cli"})
