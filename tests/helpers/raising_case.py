"""A fit of two processes, one of which raises in the second step: ``python raising_case.py FOLDER RANK``."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from helpers.tiny import classifier, digits, mixture_callbacks, trainer
from lightning.pytorch import Callback


class Raise(Callback):
    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        (self.folder / f"{trainer.global_rank}.pid").write_text(str(os.getpid()))
        trainer.strategy.barrier()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and trainer.global_rank == self.rank:
            (self.folder / "raised").touch()
            raise RuntimeError("as a user's code may")


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    callbacks = [*mixture_callbacks(sync=True), Raise(folder, int(sys.argv[2]))]
    trainer(folder, callbacks, strategy="ddp", devices=2).fit(classifier(), digits())
