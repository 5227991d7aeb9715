"""The price of a study's variant against BatchNorm: time of a training epoch, and peak memory of a training step.

    python -m benchmarks.epochs [--device cuda] [--steps N]

The networks of Kalayeh & Shah's Tables 2 and 4 are trained with Lightning's Trainer, with RMSprop and the batch sizes
of these studies, on random images that are ready in memory; nothing is logged to files or saved. Measured are N steps
in a row, after some to warm up, of the network with BatchNorm and with MixtureNorm in turn; and the refit of the
mixtures to full queues, which comes once an epoch. An epoch is printed as the steps that CIFAR has, and the refit; the
ratio is the median of the rounds' ratios.

Peak memory is what tensors take at most while a network is built and trained for three steps: weights, gradients,
RMSprop's state, queues and activations. On a CPU it is the highest "Total Allocated" of torch's CPU allocator in the
trace of ``torch.profiler`` with ``profile_memory=True``, less what it was before: exact for tensors, and without
Python, code, and scratch memory that oneDNN takes by itself. On a GPU it is ``torch.cuda.max_memory_allocated``, less
what was allocated before.
"""

import copy
import gc
import json
import logging
import statistics
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import mn_lightning as mn
from benchmarks import _timing
from benchmarks._timing import Target
from mn_lightning.models import CIFARConvNet, ImageClassifier, InceptionV3
from mn_lightning.swap import mixture_layers
from mn_lightning.utils.tables import print_table

CIFAR_IMAGES = 50_000
MEMORY_STEPS = 3
DEFAULT_STEPS = {"cpu": 5, "cuda": 50}
WARM_UP_STEPS = {"cpu": 1, "cuda": 5}
MIB = 2**20

Layers = Mapping[str, Mapping[str, int]]


class Variant(NamedTuple):
    """A variant of a study.

    Attributes:
        name: printed.
        study: file of the study among the package's configurations, and the variant's name there.
        network: makes the network.
        layers: what MixtureNorm replaces, and with which arguments.
        batch_size: images in a batch.
        smallest: side of the smallest image that the network takes.
        targets: for the ratio, on each device.
    """

    name: str
    study: tuple[str, str]
    network: Callable[[], nn.Module]
    layers: Layers
    batch_size: int
    smallest: int
    targets: Mapping[str, Target]


_PAPER = {"n_components": 3, "em_iters": 2}
_FIVE = {"n_components": 5, "em_iters": 2}
CONV_NET = Variant(
    "CIFAR CNN, MN-2",
    ("kalayeh_table2_cifar10", "MN-2"),
    CIFARConvNet,
    {"conv3": _PAPER},
    256,
    8,
    _timing.targets("<=", 1.05, 1.1),
)
INCEPTION = Variant(
    "Inception-V3, MN-4",
    ("kalayeh_table4_cifar10", "MN-4"),
    InceptionV3,
    {"inc2/0": _FIVE, "inc3/0": _FIVE},
    128,
    15,
    _timing.targets("<=", 1.1, 1.2),
)
MEMORY = Variant(
    "CIFAR CNN, MN-8",
    ("kalayeh_table2_cifar100", "MN-8"),
    CIFARConvNet,
    {"conv2": _PAPER, "conv3": _PAPER},
    256,
    8,
    _timing.targets("<=", 1.15, 1.15),
)


class Clock(Callback):
    """Times the steps of a training after the first ``warm_up``; their mean is ``seconds``."""

    def __init__(self, device: str, warm_up: int, steps: int, clock: str) -> None:
        self.now = _timing.CLOCKS[clock]
        self.device, self.first, self.last, self.steps = device, warm_up, warm_up + steps - 1, steps
        self.start = self.seconds = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start."""
        if batch_idx == self.first:
            _timing.synchronize(self.device)
            self.start = self.now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop."""
        if batch_idx == self.last:
            _timing.synchronize(self.device)
            self.seconds = (self.now() - self.start) / self.steps


def classifier(network: nn.Module) -> ImageClassifier:
    """Make the studies' model, with a learning rate that leaves the weights nearly as they are."""
    return ImageClassifier(network, optimizer=partial(torch.optim.RMSprop, lr=1e-6, momentum=0.9, weight_decay=2e-5))


def batch_of(variant: Variant, args: Namespace) -> tuple[Tensor, Tensor]:
    """Make random images and labels."""
    size, side = (4, variant.smallest) if args.quick else (variant.batch_size, 32)
    images, labels = torch.randn(size, 3, side, side), torch.randint(10, (size,))
    return images.to(args.device), labels.to(args.device)


def train(model: LightningModule, batch: tuple[Tensor, Tensor], steps: int, device: str, *callbacks: Callback) -> None:
    """Train for some steps."""
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        callbacks=list(callbacks),
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(model, DataLoader([batch] * steps, batch_size=None))


@contextmanager
def silence() -> Iterator[None]:
    """Keep Lightning from telling what it does and what it would rather have."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def fill_queues(model: ImageClassifier, images: Tensor) -> None:
    """Fill the queues of all MixtureNorm layers, as at the end of an epoch."""

    def fill(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, mn.MixtureNorm)
        finite = torch.ones((), dtype=torch.bool, device=images.device)
        for number in range(layer.queue.size):
            layer.queue.push(inputs[0], layer.num_batches_tracked + number, finite)

    handles = [layer.register_forward_pre_hook(fill) for layer in mixture_layers(model)]
    model.to(images.device).train()
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()


def with_mixtures(variant: Variant, network: nn.Module) -> nn.Module:
    """Return a copy with the variant's layers."""
    network = copy.deepcopy(network)
    mn.swap_norms(
        network, {name: dict(arguments) for name, arguments in variant.layers.items()}, "mixture", fuse_activation=True
    )
    return network


def epoch(variant: Variant, args: Namespace) -> dict[str, Any]:
    """Measure the epoch of ``variant`` and that of BatchNorm."""
    batch = batch_of(variant, args)
    steps = args.steps or (1 if args.quick else DEFAULT_STEPS[args.device])
    warm_up = 0 if args.quick else WARM_UP_STEPS[args.device]
    network = variant.network()
    models = {"BatchNorm": classifier(network), "MixtureNorm": classifier(with_mixtures(variant, network))}
    in_an_epoch = -(-CIFAR_IMAGES // variant.batch_size)
    times: dict[str, list[float]] = {"BatchNorm": [], "MixtureNorm": [], "refit": []}
    epochs: _timing.Times = {"BatchNorm": [], "MixtureNorm": []}
    for _ in range(args.rounds):
        for name, model in models.items():
            clock = Clock(args.device, warm_up, steps, args.clock)
            train(model, batch, warm_up + steps, args.device, clock)
            times[name].append(clock.seconds)
        fill_queues(models["MixtureNorm"], batch[0])
        refit = partial(mn.refit_mixtures, models["MixtureNorm"])
        times["refit"].append(_timing.seconds(refit, args.device, clock=args.clock))
        epochs["BatchNorm"].append(in_an_epoch * times["BatchNorm"][-1])
        epochs["MixtureNorm"].append(in_an_epoch * times["MixtureNorm"][-1] + times["refit"][-1])
    return {
        "what": f"{variant.name}: epoch",
        "layers": {name: dict(arguments) for name, arguments in variant.layers.items()},
        "unit": "s",
        "batch_size": len(batch[0]),
        "steps_measured": steps,
        "steps_in_an_epoch": in_an_epoch,
        "batchnorm_step_ms": _timing.median_ms(times, "BatchNorm"),
        "ours_step_ms": _timing.median_ms(times, "MixtureNorm"),
        "refit_ms": _timing.median_ms(times, "refit"),
        "batchnorm": statistics.median(epochs["BatchNorm"]),
        "ours": statistics.median(epochs["MixtureNorm"]),
        **_timing.judged(_timing.ratio(epochs, "MixtureNorm", "BatchNorm"), variant.targets[args.device]),
    }


def peak_memory(call: Callable[[], object], device: str) -> int:
    """Return how many bytes tensors took at most during a call, beyond what they took before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]" and event["args"]["Device Type"] == 0]
    first = min(changes, key=lambda event: float(event["ts"]))["args"]
    return max(event["args"]["Total Allocated"] for event in changes) - (first["Total Allocated"] - first["Bytes"])


def memory(variant: Variant, args: Namespace) -> dict[str, Any]:
    """Measure the peak memory of a training step of ``variant`` and of BatchNorm."""

    def run(swapped: bool) -> None:
        network = variant.network()
        model = classifier(with_mixtures(variant, network) if swapped else network)
        train(model, batch_of(variant, args), MEMORY_STEPS, args.device)

    if not args.quick:
        run(swapped=True)  # what is loaded or cached once
    batch_norm, ours = (peak_memory(partial(run, swapped), args.device) / MIB for swapped in (False, True))
    return {
        "what": f"{variant.name}: peak memory",
        "layers": {name: dict(arguments) for name, arguments in variant.layers.items()},
        "unit": "MiB",
        "batch_size": 4 if args.quick else variant.batch_size,
        "batchnorm": batch_norm,
        "ours": ours,
        **_timing.judged(ours / batch_norm, variant.targets[args.device]),
    }


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    numbers = (f"{row[name]:.4g} {row['unit']}" for name in ("batchnorm", "ours"))
    steps = [f"{row[name]:.4g}" if name in row else "" for name in ("batchnorm_step_ms", "ours_step_ms", "refit_ms")]
    return row["what"], *numbers, f"{row['ratio']:.3f}", *_timing.cells(row), *steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = _timing.parser("epochs", __doc__ or "", rounds=5)
    parser.add_argument("--steps", type=int, help="steps measured in a row, by default 5 on a CPU and 50 on a GPU")
    args = _timing.parse(parser, arguments)
    with silence(), _timing.computing(args.backend):
        measured = ((epoch, CONV_NET), (epoch, INCEPTION), (memory, MEMORY))
        rows = _timing.collect("epochs", args, ([measure(variant, args)] for measure, variant in measured))
    header = ("what", "BatchNorm", "ours", "ratio", "target", "", "ms a step, BatchNorm", "ours", "ms of the refit")
    print_table(_timing.title("Training of a study's variant", args), header, map(_line, rows))


if __name__ == "__main__":
    main()
