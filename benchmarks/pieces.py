"""Where computing in pieces pays on a CPU: the time of the plain formula over that of the computation in pieces.

    python -m benchmarks.pieces

The backend is chosen by the size of the activation, ``mn_lightning.kernels.pieces.SMALLEST``; here both ways are
measured on both sides of that size, and the one that is chosen is marked. ModeNorm's evaluation is plain at all
sizes and left out.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import _timing, layers
from benchmarks._timing import Times
from benchmarks.layers import FORMATS, clustered, evaluation, training
from mn_lightning.kernels import pieces, select
from mn_lightning.utils.tables import print_table

SHAPES = [(32, 16, 8, 8), (32, 32, 8, 8), (64, 32, 8, 8), (128, 64, 8, 8), (256, 128, 8, 8), (256, 64, 32, 32)]
QUICK_SHAPES = [(4, 3, 2, 2)]

LAYERS = {
    name: layers.LAYERS[name]
    for name in ("ModeNorm K=2", "ModeGroupNorm K=2", "MixtureNorm K=3", "MixtureNorm ReLU inside")
}
NO_EVALUATION = ("ModeNorm K=2",)


def with_backend(name: select.BackendName, call: Callable[[], object]) -> None:
    """Call with the backend ``name``."""
    with select.use(name):
        call()


def measure(name: str, mode: str, x: Tensor, args: Namespace) -> Times:
    """Measure both ways."""
    layer = LAYERS[name](x.shape[1])
    call = evaluation(layer, x) if mode == "evaluation" else training(layer, x, torch.randn_like(x))
    ways = {"plain": partial(with_backend, "reference", call), "pieces": partial(with_backend, "cpu", call)}
    return _timing.side_by_side(ways, args)


def rows_of(shape: Sequence[int], layout: str, args: Namespace) -> list[dict[str, Any]]:
    """Measure all layers on one input."""
    x = clustered(shape, FORMATS[layout], args.device).requires_grad_()
    rows = []
    for name in LAYERS:
        for mode in ("training", "evaluation"):
            if mode == "evaluation" and name in NO_EVALUATION:
                continue
            times = measure(name, mode, x, args)
            rows.append(
                {
                    "layer": name,
                    "mode": mode,
                    "shape": "x".join(map(str, shape)),
                    "format": layout,
                    "bytes": x.nbytes,
                    "plain_ms": _timing.median_ms(times, "plain"),
                    "pieces_ms": _timing.median_ms(times, "pieces"),
                    **_timing.judged(_timing.ratio(times, "plain", "pieces"), None),
                    "chosen": "pieces" if pieces.worth_cutting(x) else "plain",
                }
            )
    return rows


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["layer"] + (", eval" if row["mode"] == "evaluation" else ""),
        row["shape"] + (" NHWC" if row["format"] == "channels_last" else ""),
        f"{row['bytes'] / 2**20:.3g}",
        f"{row['plain_ms']:.4g}",
        f"{row['pieces_ms']:.4g}",
        f"{row['ratio']:.2f}",
        row["chosen"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    args = _timing.parse(_timing.parser("pieces", __doc__ or "", rounds=11), arguments)
    shapes = QUICK_SHAPES if args.quick else SHAPES
    rows = [row for shape in shapes for layout in FORMATS for row in rows_of(shape, layout, args)]
    header = ("layer", "input", "MiB", "plain, ms", "in pieces, ms", "ratio", "chosen")
    print_table(_timing.title("The plain formula and the computation in pieces", args), header, map(_line, rows))
    _timing.write(args.json, _timing.report_of("pieces", args, rows))


if __name__ == "__main__":
    main()
