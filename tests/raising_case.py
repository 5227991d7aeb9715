"""A fit in which one process raises: ``torchrun ... raising_case.py FOLDER``."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from tiny import classifier, digits, mixture_callbacks, trainer


class Raise(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and os.environ["RANK"] == "1":
            raise RuntimeError("as a user's code may")


if __name__ == "__main__":
    torch.set_num_threads(1)
    run = trainer(Path(sys.argv[1]), [*mixture_callbacks(sync=True), Raise()], strategy="ddp", devices=2)
    run.fit(classifier(), digits())
