"""How much of a run's test error comes from the moments that evaluation uses.

For checkpoints of the study ``fashion_mnist``: the accuracy on the test images with the moments that the training left
behind; with moments taken anew from training images under the final weights; the same with mixtures fitted in 100
iterations instead of the training's ``em_iters``; and in training mode, where each batch of test images has its own.
The weights are the same in all of them.

    mn-lightning compare fashion_mnist --limit_epochs 10 --limit_samples 10000 --keep last
    python -m benchmarks.evaluation_moments data studies/fashion_mnist/runs/*/seed-*/checkpoints/last.ckpt

Needs Fashion-MNIST in the folder that is the first argument. About two minutes a checkpoint on a CPU core.
"""

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from lightning import seed_everything
from torch import Tensor, nn

import mn_lightning as mn
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.compare.report.results import summarize
from mn_lightning.compare.report.tables import plus_minus
from mn_lightning.data import TorchvisionDataModule
from mn_lightning.models import CIFARConvNet, ImageClassifier
from mn_lightning.swap import mixture_layers
from mn_lightning.utils.tables import print_table

BATCH_SIZE = 256
TRAINING_BATCHES = 40
"""From which moments are taken anew; as many as an epoch of the limited study has."""

CONVERGED = 100
HEADER = ("run", "moments of the training", "moments anew", f"anew, refit_iters={CONVERGED}", "training mode")

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Return the share of images that are classified correctly, in the mode that the network is in."""
    right, total = 0, 0
    for images, labels in batches:
        right += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return right / total


def accuracies(checkpoint: Path, training: Batches, test: Batches) -> tuple[float, ...]:
    """Return one accuracy for each column of the table."""
    network = load_from_checkpoint(
        ImageClassifier, checkpoint, network=CIFARConvNet(1, 10), optimizer=torch.optim.SGD
    ).network
    left_behind = accuracy(network.eval(), test)
    mn.update_norms(network, training)
    anew = converged = accuracy(network.eval(), test)
    mixtures = mixture_layers(network)
    for layer in mixtures:
        layer.refit_iters = CONVERGED
        layer.refit()
    if mixtures:
        converged = accuracy(network, test)
    return left_behind, anew, converged, accuracy(network.train(), test)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each checkpoint, and mean and standard deviation over the seeds of each variant."""
    root, *checkpoints = sys.argv[1:] if arguments is None else arguments
    seed_everything(0, verbose=False)
    data = TorchvisionDataModule("FashionMNIST", root, batch_size=BATCH_SIZE)
    data.prepare_data()
    data.setup("fit")
    training = list(itertools.islice(data.train_dataloader(), TRAINING_BATCHES))
    test = list(data.val_dataloader())

    rows = []
    seeds: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for path in map(Path, checkpoints):
        variant, seed = path.parts[-4:-2]
        found = accuracies(path, training, test)
        seeds[variant].append(found)
        rows.append((f"{variant}, {seed}", *(f"{value:.4f}" for value in found)))
        print(*rows[-1], flush=True)
    for variant, values in seeds.items():
        rows.append((variant, *(plus_minus(summarize(column)) for column in zip(*values, strict=True))))
    print_table("Accuracy on the test images", HEADER, rows)


if __name__ == "__main__":
    main()
