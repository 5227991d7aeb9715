"""FIDCallback's value beside torch-fidelity's, on the same images, by Inception with random weights.

Run by hand: ``PYTHONPATH=tests python benchmarks/fid_parity.py [sizes ...]``, for the random weights are those of the
tests.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from helpers.random_inception import save_random_inception
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.callbacks import FIDCallback
from mn_lightning.utils.tables import print_table

SIZES = (200, 500, 1000)


def images(count: int, seed: int) -> Tensor:
    """Smooth colour blobs, uint8 ``(count, 3, 32, 32)``; another seed gives another contrast."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=32, mode="bicubic")
    return ((smooth * (50 + 10 * seed)) + 128).clamp(0, 255).to(torch.uint8)


class Replay(LightningModule):
    """A generator that gives the images that it was given, in order."""

    def __init__(self, fake: Tensor) -> None:
        super().__init__()
        self.fake = fake
        self.position = 0
        self.weight = nn.Parameter(torch.zeros(()))

    def sample(self, n: int) -> Tensor:
        """Return the next ``n`` images."""
        self.position += n
        return self.fake[self.position - n : self.position]

    def training_step(self, batch: Any) -> Tensor:
        """Do nothing."""
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer without use."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Plain(torch.utils.data.Dataset[Tensor]):
    """Images, as torch-fidelity takes them."""

    def __init__(self, content: Tensor) -> None:
        self.content = content

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, index: int) -> Tensor:
        return self.content[index]


def by_callback(real: Tensor, fake: Tensor, weights: Path, folder: Path) -> float:
    """Run a training of one step that ends with an evaluation."""
    callback = FIDCallback(num_samples=len(fake), weights_path=str(weights), batch_size=50, cache_dir=str(folder))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        callbacks=[callback],
        enable_model_summary=False,
        default_root_dir=folder,
        **quiet,
    )
    trainer.fit(Replay(fake), DataLoader(TensorDataset(real), batch_size=50))
    return float(trainer.callback_metrics["fid"])


def by_torch_fidelity(real: Tensor, fake: Tensor, weights: Path) -> float:
    """Return ``calculate_metrics(fid=True)``."""
    value: float = torch_fidelity.calculate_metrics(
        input1=Plain(fake),
        input2=Plain(real),
        fid=True,
        cuda=False,
        batch_size=50,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(weights),
    )["frechet_inception_distance"]
    return value


def main(sizes: list[int]) -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        weights = save_random_inception(Path(name) / "inception.pth")
        for size in sizes:
            real, fake = images(size, 1), images(size, 2)
            start = time.perf_counter()
            ours = by_callback(real, fake, weights, Path(name))
            middle = time.perf_counter()
            theirs = by_torch_fidelity(real, fake, weights)
            end = time.perf_counter()
            error = abs(ours - theirs) / theirs
            times = (f"{middle - start:.0f} s", f"{end - middle:.0f} s")
            rows.append((size, f"{ours:.6f}", f"{theirs:.6f}", f"{error:.1e}", *times))
            print(*rows[-1], file=sys.stderr, flush=True)  # the larger sizes take long
    header = ("images", "FIDCallback", "torch-fidelity", "relative difference", "time", "torch-fidelity's time")
    print_table("FID with random Inception weights, on 32x32 images", header, rows)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or list(SIZES))
