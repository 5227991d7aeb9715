"""The norm layers' time against torch's own layers on the same input, forward and backward, and in evaluation.

    python -m benchmarks.layers [--device cuda] [--shapes 256x64x32x32 ...] [--backends reference triton compile]
    python -m benchmarks.layers --clock cpu    # one thread, where other programs are at work

Inputs are those of convolutions in both memory formats and (N, C) of linear layers, with one thread and with as many as
torch takes.

A ratio is the layer's time over that of the layer it is compared with, the median over the rounds; everything is
measured in turn within a round. Training is forward and backward with gradients for input and parameters; evaluation
is forward without gradients.

The floor is memory traffic. BatchNorm reads and writes the activation 3 times forward and 5 times backward (forward: x
for the moments, x, y; backward: x and dy for the sums, x, dy, dx), ModeNorm needs no more than that, and MixtureNorm
one reading more for each iteration of its fit if that sees all rows; evaluation is x and y. The bandwidth is what
``copy_`` of a tensor of this size reaches in the same rounds, and "of floor" is the time that the bytes of these passes
take at this bandwidth over the time of the layer. A small tensor is copied within the cache: more than memory can.

With several ``--backends``, everything is measured with each in turn; ``compile`` is torch.compile of our layers.

"official ModeNorm" is Algorithm 1 of Deecke, Murray & Bilen (arXiv:1810.05466) written down as it is printed, with
torch's operations and autograd: see :class:`OfficialModeNorm`. Its ratio is its time over that of ours. On a CPU, where
it takes longer than all else together, it is measured if ``--layers`` names it, and in ``benchmarks.networks``.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from benchmarks import _timing
from benchmarks._timing import Target, Times, targets
from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.kernels import select
from mn_lightning.utils.tables import print_table

SHAPES = ("256x64x32x32", "256x128x16x16", "256x128x8x8", "128x768x7x7", "128x64x8x8")
ROWS = ("256x64", "256x512", "256x4096")
QUICK_SHAPES = ("4x8x3x3", "4x8")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
COMPILE = "compile"
EM_ITERS = 2
FIT_ROWS = 8192
TRAINING_PASSES = 3 + 5
EVALUATION_PASSES = 2

Limits = dict[str, Target]


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch's, for inputs of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class OfficialModeNorm(nn.Module):
    """Algorithm 1 of Deecke et al. as it is printed: a loop over K modes, each with passes of its own.

    The gates are those of :class:`~mn_lightning.ModeNorm`. As in the text of Section 3.2 a batch in training is
    normalized with its own moments. The variance is the difference of the moments, and the running moments are averaged
    with a momentum of 0.1.
    """

    def __init__(self, num_features: int, n_components: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gate = nn.Linear(num_features, n_components)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_first", torch.zeros(n_components, 1, num_features, 1, 1))
        self.register_buffer("running_second", torch.ones(n_components, 1, num_features, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)`` in training."""
        gates = self.gate(x.mean((2, 3))).softmax(1)
        y = torch.zeros_like(x)
        for k in range(gates.shape[1]):
            gate = gates[:, k].reshape(-1, 1, 1, 1)
            count = gate.sum()
            first = (gate * x).mean((2, 3), keepdim=True).sum(0, keepdim=True) / count
            second = (gate * x.square()).mean((2, 3), keepdim=True).sum(0, keepdim=True) / count
            with torch.no_grad():
                self.running_first[k].lerp_(first, 0.1)
                self.running_second[k].lerp_(second, 0.1)
            y = y + gate * ((x - first) / (second - first.square() + self.eps).sqrt())
        return self.weight.reshape(1, -1, 1, 1) * y + self.bias.reshape(1, -1, 1, 1)


class Case(NamedTuple):
    """One comparison.

    Attributes:
        name: of the layer.
        against: name of what it is compared with.
        limits: the targets; None where there are none.
        passes: how often the activation has to be read or written.
    """

    name: str
    against: str
    limits: Limits | None
    passes: int


def mixture_norm(channels: int, **options: Any) -> MixtureNorm:
    """Make the paper's layer, with K=3."""
    return MixtureNorm(channels, n_components=3, em_iters=EM_ITERS, **options)


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "BatchNorm": BatchNorm,
    "BatchNorm + ReLU": lambda channels: nn.Sequential(BatchNorm(channels), nn.ReLU()),
    "GroupNorm": lambda channels: nn.GroupNorm(1, channels),
    "ModeNorm K=2": lambda channels: ModeNorm(channels, 2),
    "ModeNorm K=6": lambda channels: ModeNorm(channels, 6),
    "ModeGroupNorm K=2": lambda channels: ModeGroupNorm(channels, 2),
    "MixtureNorm K=3": mixture_norm,
    "MixtureNorm ReLU inside": lambda channels: mixture_norm(channels, activation=nn.ReLU()),
    f"MixtureNorm fit_rows={FIT_ROWS}": lambda channels: mixture_norm(channels, fit_rows=FIT_ROWS),
    "official ModeNorm K=2": lambda channels: OfficialModeNorm(channels, 2),
    "official ModeNorm K=6": lambda channels: OfficialModeNorm(channels, 6),
}
OF_ROWS = targets("<=", 2, 2)
"""For inputs (N, C)."""
FIT_PASSES = TRAINING_PASSES + EM_ITERS
MODE, EVALUATION, OFFICIAL = targets("<=", 1.0, 1.3), targets("<=", 2, 2), targets(">=", 10, 5)
TRAINING_CASES = [
    Case("BatchNorm", "copy_", None, TRAINING_PASSES),
    Case("ModeNorm K=2", "BatchNorm", MODE, TRAINING_PASSES),
    Case("ModeNorm K=6", "BatchNorm", MODE, TRAINING_PASSES),
    Case("ModeGroupNorm K=2", "GroupNorm", targets("<=", 1.2, 1.5), TRAINING_PASSES),
    Case("MixtureNorm K=3", "BatchNorm", targets("<=", 1.8, 3), FIT_PASSES),
    Case("MixtureNorm ReLU inside", "BatchNorm + ReLU", targets("<=", 2.2, 3), FIT_PASSES),
    Case(f"MixtureNorm fit_rows={FIT_ROWS}", "BatchNorm", targets("<=", 1.2, 2), TRAINING_PASSES),
]
OFFICIAL_CASES = [
    Case("official ModeNorm K=2", "ModeNorm K=2", OFFICIAL, TRAINING_PASSES),
    Case("official ModeNorm K=6", "ModeNorm K=6", OFFICIAL, TRAINING_PASSES),
]
EVALUATION_CASES = [
    Case("BatchNorm", "copy_", None, EVALUATION_PASSES),
    Case("ModeNorm K=2", "BatchNorm", targets("<=", 1.2, 2), EVALUATION_PASSES),
    Case("ModeNorm K=6", "BatchNorm", targets("<=", 1.2, 2), EVALUATION_PASSES),
    Case("ModeGroupNorm K=2", "BatchNorm", EVALUATION, EVALUATION_PASSES + 1),
    Case("MixtureNorm K=3", "BatchNorm", EVALUATION, EVALUATION_PASSES),
    Case("MixtureNorm ReLU inside", "BatchNorm + ReLU", EVALUATION, EVALUATION_PASSES),
]


def clustered(shape: Sequence[int], memory_format: torch.memory_format, device: str) -> Tensor:
    """Make an activation whose C-vectors come from three clusters, so that there is something to fit."""
    labels = torch.randint(3, (shape[0], 1, *shape[2:]))
    centers = torch.randn(3, shape[1])
    x = (torch.randn(*shape) + centers[labels.squeeze(1)].movedim(-1, 1)).to(device)
    return x.contiguous(memory_format=memory_format) if x.dim() == 4 else x


def training(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], object]:
    """Return what does one forward and backward."""
    layer.train()
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), wanted, dy)


def evaluation(layer: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return what does one forward without gradients, with what the layer has stored after a batch."""
    x = x.detach()
    layer.train()
    with torch.no_grad():
        layer(x)
    if isinstance(layer, MixtureNorm):
        layer.refit_iters = 2
        layer.refit()
    layer.eval()

    def call() -> None:
        with torch.no_grad():
            layer(x)

    return call


def measure(cases: Sequence[Case], mode: str, x: Tensor, args: Namespace, compiled: bool) -> Times:
    """Measure all layers of ``cases`` and ``copy_``; ours ``compiled`` or as they are."""
    dy, copy = torch.randn_like(x), torch.empty_like(x)
    names = dict.fromkeys(name for case in cases for name in (case.against, case.name) if name in LAYERS)
    calls: dict[str, Callable[[], object]] = {"copy_": lambda: copy.copy_(x.detach())}
    for name in names:
        layer = LAYERS[name](x.shape[1]).to(x.device)
        prepare = evaluation if mode == "evaluation" else partial(training, dy=dy)
        calls[name] = prepare(layer, x)
        if compiled and name.startswith(("Mode", "Mixture")):
            layer.compile(backend="eager" if args.quick else "inductor")
    return _timing.side_by_side(calls, args)


def cases_for(shape: Sequence[int], args: Namespace) -> dict[tuple[str, str], list[Case]]:
    """What is measured on one input, by a name and the mode."""
    official = OFFICIAL_CASES if len(shape) == 4 and (args.device == "cuda" or args.layers is not None) else []
    cases = {
        ("ours", "training"): TRAINING_CASES,
        ("official", "training"): official,
        ("ours", "evaluation"): EVALUATION_CASES,
    }
    return {
        key: [case for case in some if args.layers is None or case.name in args.layers] for key, some in cases.items()
    }


def rows_of(shape: str, layout: str, backend: str | None, threads: int, args: Namespace) -> list[dict[str, Any]]:
    """Measure all layers on one input."""
    sizes = [int(size) for size in shape.split("x")]
    x = clustered(sizes, FORMATS[layout], args.device).requires_grad_()
    size = x.numel() * x.element_size()
    rows = []
    for (_, mode), cases in cases_for(sizes, args).items():
        if not cases:
            continue
        with _timing.threads_of_torch(threads), _timing.computing(None if backend == COMPILE else backend):
            times = measure(cases, mode, x, args, backend == COMPILE)
        copy_ms = _timing.median_ms(times, "copy_")
        for case in cases:
            limits = OF_ROWS if case.limits and len(sizes) == 2 else case.limits
            layer_ms = _timing.median_ms(times, case.name)
            rows.append(
                {
                    "layer": case.name,
                    "mode": mode,
                    "shape": shape,
                    "format": layout,
                    "threads": threads,
                    "backend": backend,
                    "against": case.against,
                    "reference_ms": _timing.median_ms(times, case.against),
                    "layer_ms": layer_ms,
                    **_timing.judged(
                        _timing.ratio(times, case.name, case.against), limits[args.device] if limits else None
                    ),
                    "passes": case.passes,
                    "floor_bytes": case.passes * size,
                    "bandwidth_gb_per_s": 2 * size / copy_ms / 1e6,
                    "fraction_of_floor": case.passes / 2 * copy_ms / layer_ms,
                }
            )
    return rows


def _line(row: dict[str, Any]) -> tuple[object, ...]:
    return (
        row["layer"] + (", eval" if row["mode"] == "evaluation" else ""),
        row["shape"] + (" NHWC" if row["format"] == "channels_last" else ""),
        row["threads"],
        row["backend"] or "",
        row["against"].replace("BatchNorm", "BN"),
        f"{row['reference_ms']:.4g}",
        f"{row['layer_ms']:.4g}",
        f"{row['ratio']:.2f}",
        *_timing.cells(row),
        f"{row['fraction_of_floor']:.0%}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = _timing.parser("layers", __doc__ or "", rounds=7, several_threads=True)
    parser.add_argument("--shapes", nargs="+", metavar="NxCxHxW", help="instead of the targets'; also NxC")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), help="of ours, these alone")
    parser.add_argument("--backends", nargs="+", choices=[*get_args(select.BackendName), COMPILE])
    args = _timing.parse(parser, arguments)
    of_torch = torch.get_num_threads()
    args.threads = args.threads or list(dict.fromkeys([1, of_torch] if args.device == "cpu" else [of_torch]))
    shapes = args.shapes or (QUICK_SHAPES if args.quick else SHAPES + ROWS)
    parts = (
        rows_of(shape, layout, backend, threads, args)
        for threads in args.threads
        for shape in shapes
        for layout in (args.formats if shape.count("x") == 3 else args.formats[:1])
        for backend in args.backends or [args.backend]
    )
    rows = _timing.collect("layers", args, parts)
    header = (
        "layer",
        "input",
        "threads",
        "backend",
        "against",
        "its ms",
        "layer ms",
        "ratio",
        "target",
        "",
        "of floor",
    )
    print_table(_timing.title("Norm layers", args), header, map(_line, rows))


if __name__ == "__main__":
    main()
