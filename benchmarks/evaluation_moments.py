"""How much of a run's test error comes from the moments that evaluation uses.

For checkpoints of the study ``fashion_mnist``: the accuracy on the test images with the moments that the training left
behind; with moments taken anew from training images under the final weights; and in training mode, where each batch of
test images has its own. The weights are the same in all three.

    mn-lightning compare fashion_mnist --limit_epochs 10 --limit_samples 10000
    python benchmarks/evaluation_moments.py data studies/fashion_mnist/runs/*/seed-*/checkpoints/last.ckpt

Needs Fashion-MNIST in the folder that is the first argument. About a minute a checkpoint on two CPU cores.
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from lightning import seed_everything
from torch import Tensor, nn

import mn_lightning as mn
from mn_lightning._tables import print_table
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.data import TorchvisionDataModule
from mn_lightning.models import CIFARConvNet, ImageClassifier

TRAINING_IMAGES = 10_000
"""From which moments are taken anew; as many as an epoch of the limited study has."""
BATCH_SIZE = 256

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Return the share of images that are classified correctly, in the mode that the network is in."""
    right, total = 0, 0
    for images, labels in batches:
        right += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def main() -> None:
    """Print a row for each checkpoint, and mean and standard deviation for each variant."""
    seed_everything(0, verbose=False)
    data = TorchvisionDataModule("FashionMNIST", sys.argv[1], batch_size=BATCH_SIZE)
    data.prepare_data()
    data.setup("fit")
    training = []
    for batch in data.train_dataloader():
        training.append(batch)
        if len(training) * BATCH_SIZE >= TRAINING_IMAGES:
            break
    test = list(data.val_dataloader())

    rows = []
    variants: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for path in map(Path, sys.argv[2:]):
        variant, seed = path.parts[-4], path.parts[-3]
        optimizer = torch.optim.SGD
        model = load_from_checkpoint(ImageClassifier, path, network=CIFARConvNet(1, 10), optimizer=optimizer)
        network = model.network
        left_behind = accuracy(network.eval(), test)
        mn.update_norms(network, training)
        found = (left_behind, accuracy(network.eval(), test), accuracy(network.train(), test))
        variants[variant].append(found)
        rows.append((f"{variant}, {seed}", *(f"{value:.4f}" for value in found)))
        print(rows[-1], flush=True)
    header = ("run", "moments of the training", "moments anew", "training mode")
    print_table("Accuracy on the test images", header, rows)
    means = []
    for variant, values in variants.items():
        columns = list(zip(*values, strict=True))
        spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
        means.append((variant, *(f"{statistics.fmean(c):.4f} ± {s:.4f}" for c, s in zip(columns, spread, strict=True))))
    print_table("Mean and standard deviation over seeds", ("variant", *header[1:]), means)


if __name__ == "__main__":
    main()
