"""A classifier around any network."""

from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from mn_lightning.models._swappable import SwappableModule
from mn_lightning.utils.checks import check_choice, describe

Batch = tuple[Tensor, Tensor]
SchedulerInterval = Literal["epoch", "step"]


class ImageClassifier(SwappableModule):
    """Trains a network with cross entropy and logs loss and top-1 accuracy.

    It logs ``train_loss`` (every step), ``train_acc``, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc`` (every
    epoch, as means over images), and with ``top_k=5`` also ``val_top5_acc`` and ``test_top5_acc``.

    Hyperparameters are not saved in the checkpoint, because a network among them could not be read with
    ``weights_only=True``; give the network again to ``ImageClassifier.load_from_checkpoint(path, network=...)``.

    Args:
        network: maps a batch of images to logits of shape ``(N, num_classes)``.
        num_classes: number of classes.
        optimizer: makes the optimizer from the parameters; by default Adam with learning rate 0.001. The papers'
            optimizers are in :mod:`mn_lightning.models.recipes`.
        lr_scheduler: makes the learning rate scheduler from the optimizer; none by default. A ``ReduceLROnPlateau``
            watches ``val_loss``.
        lr_scheduler_interval: ``"epoch"`` steps the scheduler once an epoch, ``"step"`` after each optimizer step, as
            Deecke et al. count in Section 4.1.
        top_k: in validation and test, also log how often the label is among the ``top_k`` most probable classes.

    Raises:
        ValueError: ``top_k`` is not between 1 and ``num_classes``; ``lr_scheduler_interval`` is neither of the two; in
            training, the logits have another shape.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: SchedulerInterval = "epoch",
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("ImageClassifier", "lr_scheduler_interval", lr_scheduler_interval, get_args(SchedulerInterval))
        self.network = network
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        # Validating the arguments would wait for the device in every step; `_logits` and `cross_entropy` check them.
        self.train_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_acc = self.train_acc.clone()
        self.test_acc = self.train_acc.clone()
        self.top_k = top_k
        if top_k is not None:
            if not 1 <= top_k <= num_classes:
                raise ValueError(
                    f"ImageClassifier got top_k={top_k!r}; it takes 1 to num_classes={num_classes}, or None"
                )
            top = MulticlassAccuracy(num_classes, top_k=top_k, average="micro", validate_args=False)
            self.val_top_k_acc, self.test_top_k_acc = top, top.clone()
        self.example_input_array = getattr(network, "example_input_array", None)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, ``(N, num_classes)``, of ``images``, in the shape that the network takes."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean cross entropy of ``(images, labels)``."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch) -> None:
        """Log loss and accuracy of ``(images, labels)``."""
        self._step(batch, "val")

    def test_step(self, batch: Batch) -> None:
        """Log loss and accuracy of ``(images, labels)``."""
        self._step(batch, "test")

    def predict_step(self, batch: Batch | Tensor) -> Tensor:
        """Return the class probabilities, ``(N, num_classes)``, of ``(images, labels)`` or of ``images`` alone."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self._logits(images).softmax(1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer, and the scheduler if there is one."""
        make = self.optimizer or partial(torch.optim.Adam, lr=0.001)
        optimizer = make(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": self.lr_scheduler(optimizer),
                "interval": self.lr_scheduler_interval,
                "monitor": "val_loss",
            },
        }

    def _step(self, batch: Batch, stage: Literal["train", "val", "test"]) -> Tensor:
        images, labels = batch
        logits = self._logits(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = getattr(self, f"{stage}_acc")
        accuracy(logits, labels)
        each_step = stage == "train"
        # The last batch can be smaller. Lightning weights the means of an epoch by the batch size that it is given
        # here.
        self.log(
            f"{stage}_loss",
            loss,
            prog_bar=True,
            on_step=each_step,
            on_epoch=not each_step,
            sync_dist=not each_step,
            batch_size=len(labels),
        )
        self.log(f"{stage}_acc", accuracy, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(labels))
        if self.top_k is not None and not each_step:
            among_first = getattr(self, f"{stage}_top_k_acc")
            among_first(logits, labels)
            name = f"{stage}_top{self.top_k}_acc"
            self.log(name, among_first, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def _logits(self, images: Tensor) -> Tensor:
        logits: Any = self(images)
        expected = (len(images), self.num_classes)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            raise ValueError(
                f"{type(self.network).__name__} returned {describe(logits)}; ImageClassifier takes one tensor of "
                f"logits of shape (N, num_classes) = {expected}, change the network's last layer or num_classes"
            )
        return logits
