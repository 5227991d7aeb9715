"""How the layers' time grows with the number of components, channels, rows and iterations of the fit.

    python -m benchmarks.scaling [--device cuda]

Forward and backward in training. One quantity is changed at a time, the others stay at K=3, 64 channels, 65,536 rows
(16,384 where channels are changed) and em_iters=2. Printed are the medians, and the slope of a straight line through
their logarithms: 1 is linear, less is what a constant part of the cost makes of it. Close to linear is read here as a
slope of at most 1.15.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks import _timing
from benchmarks._timing import Target
from benchmarks.layers import clustered, training
from mn_lightning import MixtureNorm, ModeNorm
from mn_lightning.utils.tables import print_table

LINEAR = Target("<=", 1.15)
SIDE = 8
"""Height and width of the activations."""


class Size(NamedTuple):
    """What the time depends on."""

    components: int
    channels: int
    rows: int
    em_iters: int


def mixture_norm(size: Size) -> nn.Module:
    """Make the layer."""
    return MixtureNorm(size.channels, n_components=size.components, em_iters=size.em_iters)


def mode_norm(size: Size) -> nn.Module:
    """Make the layer."""
    return ModeNorm(size.channels, size.components)


LAYERS: dict[str, Callable[[Size], nn.Module]] = {"MixtureNorm": mixture_norm, "ModeNorm": mode_norm}
BASE = Size(components=3, channels=64, rows=2**16, em_iters=2)
QUICK_BASE = Size(components=2, channels=4, rows=2 * SIDE**2, em_iters=2)
SWEEPS: dict[str, tuple[int, ...]] = {
    "components": (1, 2, 4, 8, 16),
    "channels": (16, 64, 256, 1024, 2048),
    "rows": (2**10, 2**13, 2**16, 2**18, 2**20),
    "em_iters": (1, 2, 4, 8, 16),
}
QUICK_SWEEPS: dict[str, tuple[int, ...]] = {
    "components": (1, 2),
    "channels": (2, 4),
    "rows": (SIDE**2 * 2, SIDE**2 * 4),
    "em_iters": (1, 2),
}


def measure(layer: str, swept: str, args: Namespace) -> dict[str, Any]:
    """Measure one layer over one quantity."""
    base, sweeps = (QUICK_BASE, QUICK_SWEEPS) if args.quick else (BASE, SWEEPS)
    if swept == "channels":
        base = base._replace(rows=min(base.rows, 2**14))
    calls = {}
    for value in sweeps[swept]:
        size = base._replace(**{swept: value})
        shape = (size.rows // SIDE**2, size.channels, SIDE, SIDE)
        x = clustered(shape, torch.contiguous_format, args.device).requires_grad_()
        calls[str(value)] = training(LAYERS[layer](size).to(args.device), x, torch.randn_like(x))
    times = _timing.side_by_side(calls, args)
    medians = [_timing.median_ms(times, name) for name in calls]
    slope = float(np.polyfit(np.log(sweeps[swept]), np.log(medians), 1)[0])
    return {
        "layer": layer,
        "over": swept,
        "others": {name: value for name, value in base._asdict().items() if name != swept},
        "values": list(sweeps[swept]),
        "ms": medians,
        "slope": slope,
        "target": str(LINEAR),
        "met": LINEAR.met(slope),
    }


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    times = "  ".join(f"{value}: {ms:.4g}" for value, ms in zip(row["values"], row["ms"], strict=True))
    return row["layer"], row["over"], times, f"{row['slope']:.2f}", *_timing.cells(row)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    args = _timing.parse(_timing.parser("scaling", __doc__ or "", rounds=5), arguments)
    swept = {"MixtureNorm": tuple(SWEEPS), "ModeNorm": ("components", "channels", "rows")}
    rows = [measure(layer, name, args) for layer, names in swept.items() for name in names]
    header = ("layer", "over", "value: ms", "slope", "target", "")
    print_table(_timing.title("Growth of the time", args), header, map(_line, rows))
    _timing.write(args.json, _timing.report_of("scaling", args, rows))


if __name__ == "__main__":
    main()
