"""Everything that is to be known about a GPU, in one command and in the time that there is.

    python -m benchmarks.gpu --minutes 12 --out DIR [--parts a b c]

It needs the repository and torch with a GPU, and says which other packages it misses. One part comes after the other,
each in processes of its own, so that one that fails or takes too long takes nothing from the others but its time:

a. the machine, versions, how fast it copies, and every layer computed with each backend: do they agree?
b. the tests marked ``gpu``, and those of the Triton kernels, compiled. At the same time, which takes no time from what
   is measured later, all kernels that come below are compiled, in many processes.
c. ``benchmarks.layers`` for Triton's kernels, for torch.compile of them on one input, and for torch's operations.
d. ``benchmarks.networks``, as they are and compiled with CUDA graphs, ``benchmarks.trainer_steps`` and
   ``benchmarks.epochs``: training steps of whole networks, and their peak memory.
e. ``benchmarks.fit``, against scikit-learn.
f. with what is left of the time, the study ``digits``.

Each writes its log, and what it measures as JSON, to DIR as soon as it is there, also of a process that is stopped
because its time is up; ``summary.json`` says what ran.
"""

import argparse
import copy
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks import _timing
from benchmarks.layers import FORMATS, LAYERS, QUICK_SHAPES, SHAPES, clustered
from mn_lightning.kernels import select

REPOSITORY = Path(__file__).parent.parent
NEEDED = ("triton", "lightning", "torchvision", "sklearn", "jsonargparse", "torch_fidelity", "pytest", "xdist")
GPU_TESTS = ("tests/kernels/triton_cases.py", "tests/layers/properties", "tests/gpu")
WORKERS = 8
COPIED_BYTES = 2**30


class Step(NamedTuple):
    """One process.

    Attributes:
        part: letter of the part.
        name: of its log and its JSON.
        share: how much of the time it may take, relative to the others that are still to come.
        command: makes the arguments of Python from the options and the path of the JSON.
        beside: whether it runs at the same time as the one before.
    """

    part: str
    name: str
    share: float
    command: Callable[[Namespace, Path], list[str]]
    beside: bool = False


def benchmark(
    name: str, *more: str, full: Sequence[str] = (), quick: Sequence[str] = ()
) -> Callable[[Namespace, Path], list[str]]:
    """Arguments that run a benchmark; ``full`` ones only if it is not to be quick, and ``quick`` ones if it is."""

    def command(args: Namespace, json: Path) -> list[str]:
        common = ["--device", args.device, "--json", str(json), *more]
        return ["-m", f"benchmarks.{name}", *common, *(["--quick", *quick] if args.quick else full)]

    return command


def tests(args: Namespace, _: Path) -> list[str]:
    """Arguments that run the tests; several at a time where that can be."""
    if args.device == "cpu":
        return ["-m", "pytest", "-q", "-m", "gpu", GPU_TESTS[-1]]  # to see that it runs: they are skipped
    parallel = ["-n", str(WORKERS), "--dist", "worksteal"] if importlib.util.find_spec("xdist") else []
    return ["-m", "pytest", "-q", "-m", "gpu", "--tb", "short", *parallel, *GPU_TESTS]


def study(args: Namespace, json: Path) -> list[str]:
    """Arguments that run the study."""
    command = ["-m", "mn_lightning", "compare", "digits", "--folder", str(json.with_suffix(""))]
    return [*command, "--dry-run"] if args.quick else command


def _device(args: Namespace) -> list[str]:
    return ["--device", args.device, *(["--quick"] if args.quick else [])]


TRITON = ("--backend", "triton")
COMPILED = ("--layers", "ModeNorm K=2", "--formats", "contiguous")
LARGE = ("--layers", "ModeNorm K=2", "MixtureNorm K=3", "--shapes", "256x64x32x32")
NETWORKS = ("--networks", "ResNet18", "ResNet20", "--formats", "contiguous", "--norms", "ModeNorm", "MixtureNorm")
ONE_NETWORK = ("--networks", "ResNet20", "--formats", "contiguous", "--norms", "ModeNorm")
GRAPHS = ("--compile", "reduce-overhead")
STEPS = [
    Step("a", "machine", 1, lambda args, json: ["-m", "benchmarks.gpu", *_device(args), "--only-a", str(json)]),
    Step("b", "tests", 4, tests),
    Step("b", "kernels", 0, lambda args, json: ["-m", "benchmarks.gpu", *_device(args), "--only-compile"], beside=True),
    Step("c", "layers", 4, benchmark("layers", "--backends", "triton", full=["--rounds", "5"])),
    Step("d", "graphs", 3, benchmark("networks", *TRITON, *GRAPHS, full=NETWORKS, quick=ONE_NETWORK)),
    Step("d", "networks", 2, benchmark("networks", *TRITON, full=NETWORKS, quick=ONE_NETWORK)),
    Step("e", "fit", 1, benchmark("fit", *TRITON)),
    Step("d", "trainer_steps", 2, benchmark("trainer_steps", *TRITON, full=["--steps", "30"])),
    Step("d", "epochs", 2, benchmark("epochs", *TRITON, full=["--rounds", "3", "--steps", "30"])),
    Step("c", "compiled", 2, benchmark("layers", "--backends", "compile", *COMPILED, full=[*LARGE, "--rounds", "5"])),
    Step("c", "reference", 3, benchmark("layers", "--backends", "reference", full=["--rounds", "3"], quick=COMPILED)),
    Step("f", "study", 4, study),
]
PARTS = sorted({step.part for step in STEPS})


def agreement(name: str, device: str) -> dict[str, Any]:
    """Largest difference between what the backends make of one input: outputs in both modes, and gradients."""
    torch.manual_seed(0)
    x = clustered((16, 48, 8, 8), torch.contiguous_format, device)
    layer = LAYERS[name](48).to(device)
    results = []
    for backend in ("reference", "triton"):
        computed, given = copy.deepcopy(layer), x.clone().requires_grad_()
        with _timing.computing(backend):  # type: ignore[arg-type]
            y = computed(given)
            grads = torch.autograd.grad(y.sin().sum(), (given, *computed.parameters()))
            results.append([y, *grads, *_evaluated(computed, x)])
    worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1)) for a, b in zip(*results, strict=True))
    return {"layer": name, "difference": worst, "agrees": worst < 1e-3}


@torch.no_grad()
def _evaluated(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    return [layer.eval()(x)]


def copy_speed(args: Namespace) -> float:
    """GB/s that copying reaches, bytes read and bytes written counted."""
    size = 1000 if args.quick or args.device == "cpu" else COPIED_BYTES
    source, target = (torch.empty(size, dtype=torch.uint8, device=args.device) for _ in range(2))
    times = _timing.side_by_side({"copy_": lambda: target.copy_(source)}, args)
    return 2 * size / _timing.median_ms(times, "copy_") / 1e6


def machine(args: Namespace, path: Path) -> None:
    """Part a."""
    ours = [name for name in LAYERS if name.startswith(("Mode", "Mixture"))]
    report = {
        **_timing.report_of("gpu", args, [agreement(name, args.device) for name in ours]),
        "missing": [name for name in NEEDED if importlib.util.find_spec(name) is None],
        "triton": _timing.version("triton"),
        "cuda": torch.version.cuda,
        "copy_gb_per_s": copy_speed(args),
        "triton_by_default": select.TRITON_BY_DEFAULT,
    }
    if args.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        report["memory_gib"] = properties.total_memory / 2**30
        report["processors"] = properties.multi_processor_count
    print(json.dumps(report, indent=2))
    _timing.write(path, report)


def compile_kernels(args: Namespace) -> None:
    """Compile what the benchmarks need, with as many processes as there are benchmarks and inputs."""
    few = ["--device", args.device, "--rounds", "1", *(["--quick"] if args.quick else [])]
    commands = [
        ["layers", "--backends", "triton", "--shapes", shape, "--formats", layout]
        for shape in (QUICK_SHAPES if args.quick else SHAPES)
        for layout in FORMATS
    ]
    for name, options in (
        ("networks", NETWORKS),
        ("networks", (*NETWORKS, *GRAPHS)),
        ("trainer_steps", ()),
        ("epochs", ()),
    ):
        commands.append([name, *TRITON, *options, *(["--steps", "1"] if name in ("trainer_steps", "epochs") else [])])
    if args.quick:
        commands = [[*commands[0], *COMPILED[:2]]]
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.{name}", *options, *few, "--json", f"{folder}/{number}.json"],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
            for number, (name, *options) in enumerate(commands)
        ]
        codes = [process.wait() for process in processes]
    print(f"{codes.count(0)} of {len(codes)} processes ended well")


def run(step: Step, args: Namespace, seconds: float) -> dict[str, Any]:
    """Run one process for at most so many seconds; its output goes to a log, and the log's end to ours."""
    log = args.out / f"{step.name}.log"
    command = [sys.executable, *step.command(args, args.out / f"{step.name}.json")]
    start = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = "stopped: its time was up"
    lines = log.read_text(errors="replace").splitlines()
    print("\n".join(lines[-12:] if status == "failed" or step.part == "b" else lines[-60:]), flush=True)
    return {"part": step.part, "name": step.name, "status": status, "seconds": round(time.monotonic() - start, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--minutes", type=float, default=12, help="for everything, %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "gpu", metavar="DIR")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="tiny inputs and one round: to see that it runs")
    parser.add_argument("--rounds", type=int, default=5, help=argparse.SUPPRESS)
    parser.add_argument("--only-a", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only-compile", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(clock="wall")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; --device cpu --quick shows that it runs")
    if args.only_a:
        machine(args, args.only_a)
        return
    if args.only_compile:
        compile_kernels(args)
        return
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    steps = [step for step in STEPS if step.part in args.parts]
    done: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        if step.beside:
            continue
        left = end - time.monotonic()
        seconds = left * step.share / sum(other.share for other in steps[number:])
        together = [step, *takewhile(lambda other: other.beside, steps[number + 1 :])]
        print(f"== {step.part}: {', '.join(each.name for each in together)}, at most {seconds:.0f} s", flush=True)
        with ThreadPoolExecutor(len(together)) as pool:
            done.extend(pool.map(partial(run, args=args, seconds=seconds), together))
        for result in done[-len(together) :]:
            print(f"== {step.part}: {result['name']}: {result['status']} after {result['seconds']} s", flush=True)
        _timing.write(args.out / "summary.json", {"minutes": args.minutes, "steps": done})


if __name__ == "__main__":
    main()
