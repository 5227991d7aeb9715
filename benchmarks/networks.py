"""Time of a training step of whole networks with our norms everywhere, over that of the same network with BatchNorm.

    python -m benchmarks.networks [--device cuda] [--networks ResNet20 ...] [--threads 1 2]
    python -m benchmarks.networks --clock cpu    # where other programs are at work

    python -m benchmarks.networks --device cuda --networks ResNet18 --compile reduce-overhead

A step is forward, backward and nothing else, on one random batch of 32x32 images. MixtureNorm has K=3, em_iters=2 and
scale="unit". "official ModeNorm" is :class:`~benchmarks.layers.OfficialModeNorm` with K=2 in the place of each
BatchNorm; its ratio is its time over that of ours.

With ``--compile`` all networks are compiled by torch.compile. Its mode "reduce-overhead" records a step once and lets
the GPU repeat it (CUDA graphs).
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks import _timing
from benchmarks._timing import targets
from benchmarks.layers import FORMATS, OfficialModeNorm
from mn_lightning.models.networks import VGG13, CIFARConvNet, ResNet20, TorchvisionNetwork
from mn_lightning.swap import swap_norms
from mn_lightning.utils.tables import print_table

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet20": (ResNet20, 128),
    "VGG13": (VGG13, 128),
    "CIFAR CNN": (CIFARConvNet, 256),
    "ResNet18": (lambda: TorchvisionNetwork("resnet18", 10), 128),
}
DEFAULT_NETWORKS = ["ResNet20", "VGG13", "CIFAR CNN"]
QUICK_BATCH = 4
CASES = [
    ("ModeNorm", "BatchNorm", targets("<=", 1.05, 1.15)),
    ("MixtureNorm", "BatchNorm", targets("<=", 1.35, 1.5)),
    ("official ModeNorm", "ModeNorm", targets(">=", 2.5, 2)),
]


def with_norm(network: nn.Module, norm: str) -> nn.Module:
    """Put a norm in the place of every BatchNorm."""
    if norm == "ModeNorm":
        swap_norms(network, "all", norm="mode", n_components=2)
    elif norm == "MixtureNorm":
        swap_norms(network, "all", norm="mixture", n_components=3, em_iters=2, scale="unit")
    elif norm == "official ModeNorm":
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, OfficialModeNorm(module.num_features, 2))
    return network


def rows_of(network: str, layout: str, threads: int, args: Namespace) -> list[dict[str, Any]]:
    """Measure one network with all norms."""
    make, batch = NETWORKS[network]
    batch = QUICK_BATCH if args.quick else batch
    x = torch.randn(batch, 3, 32, 32, device=args.device).contiguous(memory_format=FORMATS[layout])
    labels = torch.randint(10, (batch,), device=args.device)
    calls = {}
    cases = [case for case in CASES if case[0] in args.norms]
    for norm in dict.fromkeys(name for case in cases for name in (case[1], case[0])):
        model = with_norm(make().to(args.device, memory_format=FORMATS[layout]), norm).to(args.device).train()
        if args.compile:
            model.compile(**({"backend": "eager"} if args.quick else {"mode": args.compile}))

        def step(model: nn.Module = model) -> None:
            nn.functional.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]

        calls[norm] = step
    with _timing.threads_of_torch(threads):
        times = _timing.side_by_side(calls, args)
    return [
        {
            "network": network,
            "batch": batch,
            "format": layout,
            "threads": threads,
            "norm": norm,
            "against": against,
            "reference_ms": _timing.median_ms(times, against),
            "ms": _timing.median_ms(times, norm),
            **_timing.judged(_timing.ratio(times, norm, against), target[args.device]),
        }
        for norm, against, target in cases
    ]


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        f"{row['network']}, batch {row['batch']}" + (", NHWC" if row["format"] == "channels_last" else ""),
        row["threads"],
        row["norm"],
        row["against"],
        f"{row['reference_ms']:.4g}",
        f"{row['ms']:.4g}",
        f"{row['ratio']:.2f}",
        *_timing.cells(row),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = _timing.parser("networks", __doc__ or "", rounds=5, several_threads=True)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=DEFAULT_NETWORKS)
    parser.add_argument("--norms", nargs="+", choices=[case[0] for case in CASES], default=[case[0] for case in CASES])
    parser.add_argument("--compile", metavar="MODE", help="of torch.compile: default, reduce-overhead, max-autotune")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    args = _timing.parse(parser, arguments)
    args.threads = args.threads or [torch.get_num_threads()]
    parts = (
        rows_of(name, layout, threads, args)
        for threads in args.threads
        for name in args.networks
        for layout in args.formats
    )
    rows = _timing.collect("networks", args, parts)
    header = ("network", "threads", "norm", "against", "its ms", "ms", "ratio", "target", "")
    print_table(_timing.title("Training steps of networks", args), header, map(_line, rows))


if __name__ == "__main__":
    main()
