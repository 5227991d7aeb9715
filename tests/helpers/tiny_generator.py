"""A generator, images and a feature extractor, all tiny, for tests of what measures them."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from mn_lightning.callbacks import FIDCallback

REAL = 30
"""Number of real images."""


class Generator(LightningModule):
    """Learns nothing of use, but from random latents, through dropout and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 64))
        self.frozen = nn.Dropout().eval()

    def sample(self, n: int) -> Tensor:
        return self.network(torch.randn(n, 4)).tanh().view(n, 1, 8, 8)

    def training_step(self, batch: Any) -> Tensor:
        loss = (self.sample(len(batch[0])) - batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


class TwoOptimizers(Generator):
    """Counts the generator's steps itself: one in each batch, where Lightning counts two."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator_steps = 0
        self.stop_at = stop_at

    def training_step(self, batch: Any) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward((self.sample(len(batch[0])) - batch[0]).square().mean())
            optimizer.step()
        self.generator_steps += 1
        if self.generator_steps == self.stop_at:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)], []


class Features(nn.Module):
    """Six features of 8x8 images; the same weights in every process."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("matrix", torch.randn(64, 6, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images[:, :1].float().flatten(1) / 255 @ self.matrix


class Registered(FeatureExtractorBase):
    """What torch-fidelity calls an extractor."""

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.features = Features()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("six",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "six"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        assert images.shape[1] == 3
        return (self.features(images),)


if "tiny-features" not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor("tiny-features", Registered)


def real_bytes(count: int = REAL, seed: int = 1) -> Tensor:
    """Images that differ enough for a covariance of full rank."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def loader(images: Tensor | None = None, **arguments: Any) -> DataLoader[Any]:
    """Images in [-1, 1], as a GAN takes them, shuffled and without the last batch."""
    images = real_bytes() if images is None else images
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "drop_last": True}
    return DataLoader(TensorDataset(images.float() / 127.5 - 1), **{**options, **arguments})


def fid(folder: Path, **arguments: Any) -> FIDCallback:
    options: dict[str, Any] = {"feature_extractor": Features(), "num_samples": 50, "batch_size": 16}
    return FIDCallback(cache_dir=str(folder / "cache"), **{**options, **arguments})
