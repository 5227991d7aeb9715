"""How much a MixtureNorm generator's samples depend on the refit that happened to come before them.

Trains Kalayeh & Shah's DCGAN with MixtureNorm on scikit-learn's digits, and a classifier of digits. Then, with the
generator's weights fixed: fills the queues with batches of other latents, refits the mixtures, and measures the Fréchet
distance of 1,000 samples to the real digits in the classifier's features; ten times for each number of iterations.

    python -m benchmarks.refit_spread [STEPS]

About ten minutes on two CPU cores with the default of 600 training steps.
"""

import copy
import statistics
import sys
import time

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import mn_lightning as mn
from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.data import DigitsDataModule
from mn_lightning.fid.frechet import frechet_distance
from mn_lightning.models import DCGAN, ImageClassifier, LeNet
from mn_lightning.swap import mixture_layers

ITERATIONS = (2, 10, 30, 100, 300)
REPETITIONS = 10
SAMPLES = 1000
BATCH_SIZE = 64
QUEUED_BATCHES = 20


def fit(model: LightningModule, epochs: int, *callbacks: Callback) -> None:
    """Train on digits in [-1, 1]."""
    seed_everything(0, verbose=False)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **options)
    trainer.fit(model, DigitsDataModule(batch_size=BATCH_SIZE, normalize="symmetric"))


def latents(count: int, seed: int) -> Tensor:
    """Draw from [-1, 1], ``(count, 100)``."""
    return 2 * torch.rand(count, 100, generator=torch.Generator().manual_seed(seed)) - 1


def generate(generator: nn.Module, count: int, seed: int) -> Tensor:
    """Make images in the mode that the generator is in, in batches as in training."""
    with torch.no_grad():
        return torch.cat([generator(part) for part in latents(count, seed).split(BATCH_SIZE)])


def features(network: LeNet, images: Tensor) -> Tensor:
    """Return the penultimate activations, float64 ``(N, 84)``."""
    seen: list[Tensor] = []
    handle = network.linear3.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0].double()


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ``(D,)`` and covariance ``(D, D)`` of ``(N, D)``."""
    return rows.mean(0), rows.T.cov()


def main() -> None:
    """Print mean, standard deviation and range over the refits."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    classifier = ImageClassifier(LeNet(1, 10), optimizer=lambda weights: torch.optim.Adam(weights, lr=1e-3))
    fit(classifier, 15)
    network = classifier.network.eval()
    gan = DCGAN(channels=1, base_channels=16, max_generator_steps=steps)
    swap = NormSwapCallback(["deconv1", "deconv2"], "mixture", n_components=3, em_iters=2)
    fit(gan, -1, swap, GMMRefitCallback(), QueueResetCallback())

    data = DigitsDataModule(normalize="symmetric")
    data.setup()
    real = moments(features(network, data.train.tensors[0]))

    def distance(generator: nn.Module, seed: int) -> float:
        generated = moments(features(network, generate(generator, SAMPLES, seed)))
        return float(frechet_distance(*real, *generated))

    table = Table("refit_iters", "mean", "standard deviation", "least", "most", "CPU seconds a refit")
    for iterations in ITERATIONS:
        distances, seconds = [], 0.0
        for repetition in range(REPETITIONS):
            generator = copy.deepcopy(gan.generator).train()
            for layer in mixture_layers(generator):
                layer.refit_iters = iterations
                layer.num_batches_tracked += 1000 * repetition  # other random choices in the fit
            mn.reset_queues(generator)
            generate(generator, QUEUED_BATCHES * BATCH_SIZE, 1 + repetition)
            started = time.process_time()
            mn.refit_mixtures(generator)
            seconds += time.process_time() - started
            distances.append(distance(generator.eval(), 0))
        numbers = [statistics.fmean(distances), statistics.stdev(distances), min(distances), max(distances)]
        table.add_row(str(iterations), *(f"{number:.1f}" for number in numbers), f"{seconds / REPETITIONS:.2f}")
    training = [distance(gan.generator.train(), seed) for seed in range(REPETITIONS)]
    numbers = [statistics.fmean(training), statistics.stdev(training), min(training), max(training)]
    table.add_row("training mode", *(f"{number:.1f}" for number in numbers), "")
    Console().print(table)


if __name__ == "__main__":
    main()
