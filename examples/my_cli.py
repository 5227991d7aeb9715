"""A command line of one's own: Lightning's, for MyModule and digits, with the callbacks of mn_lightning by name."""

from lightning.pytorch.cli import LightningCLI
from my_module import MyModule

import mn_lightning.callbacks  # noqa: F401  makes their names known
from mn_lightning.data import DigitsDataModule

if __name__ == "__main__":
    LightningCLI(MyModule, DigitsDataModule, seed_everything_default=0)
