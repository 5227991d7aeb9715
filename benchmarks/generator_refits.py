"""What the iterations of a refit do to the images of a trained MixtureNorm generator.

For the runs of the study ``dcgan_fashion_mnist``: with each generator's weights fixed, queues 20 batches of latents and
refits the mixtures, with random choices of its own in each of five repetitions; measures the Fréchet distance of 10,000
samples in the features of the study's classifier. The last row is training mode, where each batch has its own mixture.

    mn-lightning compare dcgan_fashion_mnist --limit_epochs 2 --keep best
    python -m benchmarks.generator_refits data studies/dcgan_fashion_mnist

About ten minutes a generator on one CPU core.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import mn_lightning as mn
from benchmarks.refit_spread import BATCH_SIZE, QUEUED_BATCHES, generate, latents, moments
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.compare.report.results import summarize
from mn_lightning.compare.report.tables import plus_minus
from mn_lightning.data import TorchvisionDataModule
from mn_lightning.fid.frechet import frechet_distance
from mn_lightning.fid.images import to_bytes
from mn_lightning.models import DCGAN, ClassifierFeatures, LeNet
from mn_lightning.swap import mixture_layers
from mn_lightning.utils.tables import print_table

ITERATIONS = (2, 10, 100)
REPETITIONS = 5
SAMPLES = 10_000
VALUE_RANGE = (-1.0, 1.0)

Moments = tuple[Tensor, Tensor]


def moments_of(features: nn.Module, images: Iterable[Tensor]) -> Moments:
    """Return mean ``(D,)`` and covariance ``(D, D)`` of the features of batches of images in [-1, 1]."""
    return moments(torch.cat([features(to_bytes(batch, VALUE_RANGE)) for batch in images]).double())


def distance(generator: nn.Module, features: nn.Module, real: Moments) -> float:
    """Return the Fréchet distance of samples in the mode that the generator is in."""
    generated = moments_of(features, generate(generator, SAMPLES, 0).split(BATCH_SIZE))
    return float(frechet_distance(*real, *generated))


def distances(generator: nn.Module, features: nn.Module, real: Moments) -> dict[str, list[float]]:
    """Return the distances of all repetitions for each number of iterations, and that of training mode."""
    mn.update_norms(generator, latents(QUEUED_BATCHES * BATCH_SIZE, 99).split(BATCH_SIZE))
    layers = mixture_layers(generator)
    seen = [layer.num_batches_tracked.clone() for layer in layers]
    found = {}
    for iterations in ITERATIONS:
        found[str(iterations)] = values = []
        for repetition in range(REPETITIONS):
            for layer, count in zip(layers, seen, strict=True):
                layer.refit_iters = iterations
                layer.num_batches_tracked.copy_(count + 1000 * repetition)  # other random choices
                layer.refit()
            values.append(distance(generator.eval(), features, real))
    found["training mode"] = [distance(generator.train(), features, real)]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print mean and standard deviation over the repetitions."""
    root, study = sys.argv[1:] if arguments is None else arguments
    data = TorchvisionDataModule("FashionMNIST", root, batch_size=500, augment=False, normalize="symmetric")
    data.prepare_data()
    data.setup("fit")
    classifier = Path(study, "prepare", "classifier", "checkpoints", "last.ckpt")
    features = ClassifierFeatures(str(classifier), LeNet(1, 10), [0.5], [0.5])
    real = moments_of(features, (images for images, _ in data.train_dataloader()))
    rows = []
    paths = sorted(Path(study).glob("runs/DCGAN-MN/seed-*/checkpoints/best.ckpt"))
    if not paths:
        sys.exit(f"{study} has no checkpoints/best.ckpt of DCGAN-MN; mn-lightning compare --keep best leaves them")
    for path in paths:
        model = load_from_checkpoint(DCGAN, path, channels=1, base_channels=32)
        for iterations, values in distances(model.generator, features, real).items():
            rows.append((path.parts[-3], iterations, plus_minus(summarize(values), "{:.2f}")))
            print(*rows[-1], flush=True)
    print_table("Fréchet distance after refits", ("run", "iterations", "distance"), rows)


if __name__ == "__main__":
    main()
