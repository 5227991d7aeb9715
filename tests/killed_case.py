"""A fit that goes on from its last checkpoint, to be killed: ``python killed_case.py FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import classifier, digits, mixture_callbacks, trainer, weights_of
from torch import Tensor

EPOCHS = 8


class Saver(ModelCheckpoint):
    """Saves after each step but the last of an epoch.

    Lightning 2.6 loses count in the epoch after such a checkpoint is resumed from: interrupted again in that epoch, the
    fit would start the epoch anew.
    """

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args)


def fit(folder: Path) -> dict[str, Tensor]:
    """Train, with a refit and a checkpoint after each step; say when the training starts."""
    torch.set_num_threads(1)
    model = classifier()
    saver = Saver(folder, "{step}", save_last=True, save_top_k=1, every_n_train_steps=1)
    run = trainer(folder, [*mixture_callbacks(refit_iters=10), saver], max_epochs=EPOCHS, enable_checkpointing=True)
    print("starts", flush=True)
    run.fit(model, digits(), ckpt_path="last")
    return weights_of(model)


if __name__ == "__main__":
    torch.save(fit(Path(sys.argv[1])), Path(sys.argv[1]) / "weights.pt")
