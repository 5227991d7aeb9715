"""A LightningModule as yours may be: it knows nothing of mn_lightning."""

from collections import OrderedDict

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            norm=nn.BatchNorm2d(outputs),
            relu=nn.ReLU(),
        )
    )


class MyModule(L.LightningModule):
    """Tells scikit-learn's handwritten digits apart, images of 8x8 pixels."""

    def __init__(self, width: int = 16, lr: float = 0.003) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            OrderedDict(
                block1=block(1, width, stride=1),
                block2=block(width, 2 * width, stride=2),
                block3=block(2 * width, 2 * width, stride=2),
                flatten=nn.Flatten(),
                head=nn.Linear(2 * width * 2 * 2, 10),
            )
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def training_step(self, batch):
        return self._step(batch, "train")

    def validation_step(self, batch):
        self._step(batch, "val")

    def test_step(self, batch):
        self._step(batch, "test")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)

    def _step(self, batch, stage: str) -> torch.Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": accuracy}, prog_bar=True, on_step=False, on_epoch=True)
        return loss
