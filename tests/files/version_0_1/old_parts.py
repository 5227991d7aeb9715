"""Networks, data and callbacks of the trainings that wrote these files: what a user's own module would hold.

The configurations name `Network` and `InterruptOnce` by their class paths, so this file has to keep its name.
"""

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.callbacks import FIDCallback, GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.data import DigitsDataModule
from mn_lightning.models import DCGAN, ImageClassifier

EPOCHS = 3
STOP = 19
"""Steps until the interruption: 13 of the first epoch and 6 of the second."""

GAN_EPOCHS = 2
"""Epochs of the GAN until its checkpoint; the resumed training has one more."""

SWAPS: dict[str, list[dict[str, Any]]] = {
    "mixture": [{"layers": "all", "norm": "mixture", "n_components": 2}],
    "mode": [{"layers": "first", "norm": "mode"}, {"layers": "last", "norm": "mode_group"}],
}


class Network(nn.Sequential):
    """From images ``(N, 1, 8, 8)`` to logits ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 3, 3, stride=2, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(27, 6, bias=False),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 10),
        )


def small_network() -> nn.Sequential:
    """From ``(N, 3)`` to ``(N, 4)``."""
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4))


def classifier() -> ImageClassifier:
    return ImageClassifier(
        Network(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
    )


def digits() -> DigitsDataModule:
    return DigitsDataModule(batch_size=100, image_size=8)  # 13 batches in an epoch


def classifier_callbacks(name: str) -> list[Callback]:
    return [*(NormSwapCallback(**swap) for swap in SWAPS[name]), GMMRefitCallback(), QueueResetCallback()]


def trainer(folder: Path, callbacks: list[Callback], saver: ModelCheckpoint, **arguments: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        callbacks=[*callbacks, saver],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


def numbers(*shape: int) -> Tensor:
    """Fixed numbers in [-1, 1], float64, that no random generator has a part in."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((index * index * 37 + index * 11) % 101 / 50 - 1).view(shape)


def evaluated(model: nn.Module, x: Tensor) -> list[list[float]]:
    """What ``model`` computes of ``x`` in evaluation, in float64: rounding differs from one machine to another."""
    with torch.no_grad():
        output: Tensor = model.double().eval()(x)
    return output.flatten(1).tolist()


class Interruption(Callback):
    """Raises in the place of step ``STOP + 1``; starts with weights that no gate or affine map is initialized to."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.add_(0.3 * numbers(*parameter.shape))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == STOP:
            raise InterruptedError


class InterruptOnce(Callback):
    """What Ctrl-C does, in the middle of the second epoch; not when the environment says that it was done."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2 and "INTERRUPTED_BEFORE" not in os.environ:
            raise KeyboardInterrupt


# --- the GAN ------------------------------------------------------------------------------------------------------


def gan() -> DCGAN:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.02)

    model = DCGAN(1, 32, 1, 1, generator_optimizer=optimizer, discriminator_optimizer=optimizer)
    with torch.no_grad():
        for layer in model.generator.modules():
            if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)):
                layer.weight.mul_(30)  # after few steps, images are all alike otherwise
    return model


def gan_images() -> Tensor:
    """24 images, uint8."""
    return (numbers(24, 1, 32, 32) * 127 + 128).round().byte()


def gan_loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(gan_images().float() / 127.5 - 1), batch_size=8)


class Quarters(nn.Module):
    """Features of images: the mean of each quarter. Counts the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)


class SeedAtStart(Callback):
    """A GAN's checkpoint does not hold the random state that its latents come from."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(1)


def gan_callbacks(cache: Path, extractor: Quarters) -> list[Callback]:
    fid = FIDCallback(
        every_n_epochs=1,
        num_samples=24,
        real=DataLoader(TensorDataset(gan_images())),
        feature_extractor=extractor,
        metrics=("fid", "kid"),
        batch_size=12,
        cache_dir=str(cache),
    )
    swap = NormSwapCallback(["deconv1", "deconv2"], "mixture", n_components=2)
    return [swap, GMMRefitCallback(), QueueResetCallback(), fid, SeedAtStart()]
