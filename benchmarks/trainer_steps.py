"""The price of our norms in whole networks: time and peak memory of a training step over those with BatchNorm.

    python -m benchmarks.trainer_steps [--device cuda] [--steps N]

ModeNorm with two modes in the place of every BatchNorm of ResNet20 and ResNet18, and the DCGAN of Kalayeh & Shah's
Section 5.3, whose generator has MixtureNorm in two places. Measured as :mod:`benchmarks.epochs` does it: with
Lightning's Trainer, on random images that are ready in memory, steps in a row after some to warm up, with BatchNorm and
with ours in turn.
"""

import copy
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule

import mn_lightning as mn
from benchmarks import _timing, epochs
from benchmarks._timing import Target
from mn_lightning.models import DCGAN, ResNet20, TorchvisionNetwork
from mn_lightning.utils.tables import print_table

Targets = dict[str, Target]


class Case(NamedTuple):
    """A model with BatchNorm, and what takes its place.

    Attributes:
        name: printed.
        model: makes the model.
        swap: replaces its norms.
        batch_size: images in a batch.
        targets: for the ratio of the times, on each device.
    """

    name: str
    model: Callable[[], LightningModule]
    swap: Callable[[LightningModule], object]
    batch_size: int
    targets: Targets | None


def with_modes(model: LightningModule) -> None:
    """Put ModeNorm everywhere."""
    mn.swap_norms(model, "all", "mode", n_components=2)


def with_mixtures(model: LightningModule) -> None:
    """Put MixtureNorm where the paper's generator has it."""
    layers = {f"generator.{name}": {"n_components": 3, "em_iters": 2} for name in ("deconv1", "deconv2")}
    mn.swap_norms(model, layers, "mixture")


CASES = [
    Case("ResNet20, ModeNorm everywhere", lambda: epochs.classifier(ResNet20()), with_modes, 128, None),
    Case(
        "ResNet18, ModeNorm everywhere",
        lambda: epochs.classifier(TorchvisionNetwork("resnet18", 10)),
        with_modes,
        128,
        _timing.targets("<=", 1.3, 1.15),
    ),
    Case("DCGAN, MixtureNorm in two places", DCGAN, with_mixtures, 64, None),
]


def measure(case: Case, args: Namespace) -> dict[str, Any]:
    """Measure steps, and then memory."""
    size = 4 if args.quick else case.batch_size
    images = torch.rand(size, 3, 32, 32, device=args.device) * 2 - 1
    batch = images, torch.randint(10, (size,), device=args.device)
    steps = args.steps or (1 if args.quick else epochs.DEFAULT_STEPS[args.device])
    warm_up = 0 if args.quick else epochs.WARM_UP_STEPS[args.device]
    model = case.model()
    swapped = copy.deepcopy(model)
    case.swap(swapped)
    models = {"BatchNorm": model, "ours": swapped}
    times: _timing.Times = {name: [] for name in models}
    for _ in range(args.rounds):
        for name, trained in models.items():
            clock = epochs.Clock(args.device, warm_up, steps, args.clock)
            epochs.train(trained, batch, warm_up + steps, args.device, clock)
            times[name].append(clock.seconds)
    memory = {
        name: epochs.peak_memory(
            partial(epochs.train, copy.deepcopy(trained).cpu(), batch, epochs.MEMORY_STEPS, args.device), args.device
        )
        for name, trained in models.items()
    }
    return {
        "what": case.name,
        "batch_size": size,
        "steps_measured": steps,
        "batchnorm_ms": _timing.median_ms(times, "BatchNorm"),
        "ours_ms": _timing.median_ms(times, "ours"),
        **_timing.judged(_timing.ratio(times, "ours", "BatchNorm"), case.targets and case.targets[args.device]),
        "batchnorm_mib": memory["BatchNorm"] / epochs.MIB,
        "ours_mib": memory["ours"] / epochs.MIB,
    }


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    ms, mib = ([f"{row[f'{name}_{unit}']:.4g}" for name in ("batchnorm", "ours")] for unit in ("ms", "mib"))
    return row["what"], *ms, f"{row['ratio']:.3f}", *_timing.cells(row), *mib


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = _timing.parser("trainer_steps", __doc__ or "", rounds=3)
    parser.add_argument("--steps", type=int, help="steps measured in a row, by default 5 on a CPU and 50 on a GPU")
    args = _timing.parse(parser, arguments)
    with epochs.silence(), _timing.computing(args.backend):
        rows = _timing.collect("trainer_steps", args, ([measure(case, args)] for case in CASES))
    header = ("network", "BatchNorm ms", "ours ms", "ratio", "target", "", "BatchNorm MiB", "ours MiB")
    print_table(_timing.title("A training step", args), header, map(_line, rows))


if __name__ == "__main__":
    main()
