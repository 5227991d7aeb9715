"""A small network, data and Trainer, for tests of what happens around the training."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mn_lightning import MixtureNorm
from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.data import DigitsDataModule
from mn_lightning.models import ImageClassifier

BATCHES = 5
"""Training batches in an epoch of :func:`digits`."""


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 10),
    )


def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(
        network(),
        optimizer=lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.9),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    )


def digits() -> DigitsDataModule:
    return DigitsDataModule(batch_size=256, image_size=8)


def mixture_callbacks(layers: Any = "all", **arguments: Any) -> list[Callback]:
    return [NormSwapCallback(layers, "mixture", **arguments), GMMRefitCallback(), QueueResetCallback()]


def trainer(folder: Path, callbacks: list[Callback], **arguments: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=folder, callbacks=callbacks, **{**defaults, **arguments})


def mixtures(model: nn.Module) -> list[MixtureNorm]:
    return [module for module in model.modules() if isinstance(module, MixtureNorm)]


def weights_of(model: LightningModule) -> dict[str, torch.Tensor]:
    """Everything of the network, metric states left out."""
    return {name: value.clone() for name, value in model.network.state_dict().items()}
