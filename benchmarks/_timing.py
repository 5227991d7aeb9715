"""What the benchmarks have in common: options, measuring side by side, and a result that says where it comes from."""

import argparse
import ctypes
import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from mn_lightning.kernels import select

LEAST_SECONDS = 0.02
"""What takes less is called several times in a row for one measurement."""
LONG_SECONDS = 1.0
"""What takes so long, with what is compiled for it, is called once: nothing has to be found out."""
MOST_CALLS = 100
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt
PACKAGES = ("torch", "lightning", "mn-lightning")

Times = dict[str, list[float]]


class Target(NamedTuple):
    """Where a ratio should be: ``"<="`` or ``">="`` a limit."""

    relation: str
    limit: float

    def met(self, ratio: float) -> bool:
        """Whether ``ratio`` is there."""
        return ratio <= self.limit if self.relation == "<=" else ratio >= self.limit

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:g}"


def targets(relation: str, cpu: float, cuda: float) -> dict[str, Target]:
    """Where a ratio should be, on each device."""
    return {"cpu": Target(relation, cpu), "cuda": Target(relation, cuda)}


def judged(ratio: float, target: Target | None) -> dict[str, Any]:
    """Part of a row: a ratio beside its target, if there is one."""
    if target is None:
        return {"ratio": ratio, "target": None, "met": None}
    return {"ratio": ratio, "target": str(target), "met": target.met(ratio)}


def cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Columns of a table: the target of a row, and whether it is met."""
    return row["target"] or "", {None: "", True: "met", False: "missed"}[row["met"]]


def parser(name: str, text: str, rounds: int, several_threads: bool = False) -> argparse.ArgumentParser:
    """Make the parser with the options that all benchmarks have; ``several_threads`` lets ``--threads`` take a list."""
    result = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=text.partition("\n")[0])
    result.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    result.add_argument("--rounds", type=int, default=rounds, help="how often everything is measured, %(default)s")
    threads: dict[str, Any] = {"nargs": "+"} if several_threads else {}
    result.add_argument("--threads", type=int, help="threads of the CPU, by default as many as torch takes", **threads)
    result.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="what time is measured by: cpu adds up that of all threads of this program, and leaves out what others do "
        "to the clock",
    )
    result.add_argument(
        "--backend", choices=get_args(select.BackendName), help="compute with this one, by default as the package does"
    )
    result.add_argument("--quick", action="store_true", help="tiny inputs and one round: to see that it runs")
    result.add_argument("--json", type=Path, default=Path(__file__).parent / "out" / f"{name}.json", metavar="PATH")
    return result


def parse(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, and set what the options say."""
    args = options.parse_args(arguments)
    if args.rounds < 1:
        options.error("--rounds takes 1 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        options.error("there is no GPU that torch can use")
    if args.device == "cuda" and args.clock == "cpu":
        options.error("--clock cpu does not see a GPU's time; leave it out")
    if args.quick:
        args.rounds = 1
    if isinstance(args.threads, int):
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    return args


def keep_freed_memory() -> None:
    """Let the C library hand out memory that was freed again, instead of giving it back to the system.

    What comes from the system is cleared page by page, which takes as long as reading an activation several times. By
    default that happens to each block of more than 32 MiB, and to others or not, by what was freed before: BatchNorm in
    evaluation took 4 ms or 22 for the same input.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def computing(backend: select.BackendName | None) -> AbstractContextManager[None]:
    """Compute with a backend inside the context; with None, with those that the package picks."""
    return nullcontext() if backend is None else select.use(backend)


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Compute with so many threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(call: Callable[[], object], device: str, times: int = 1, clock: str = "wall") -> float:
    """Time one call, from the mean of ``times`` of them; on a GPU, until the last has been computed."""
    now = CLOCKS[clock]
    synchronize(device)
    start = now()
    for _ in range(times):
        call()
    synchronize(device)
    return (now() - start) / times


def synchronize(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def side_by_side(calls: Mapping[str, Callable[[], object]], args: argparse.Namespace, pause: float = 0) -> Times:
    """Measure all calls in turn, A B C A B C ..., so that what else the machine does falls on all of them.

    Before that comes a round to warm up, and one that finds how many calls make a measurement long enough, where the
    first was short.

    Args:
        calls: by name.
        args: the options.
        pause: seconds of rest before each measurement. The threads of a library wait for work by spinning for a while,
            which slows down those of another; of two libraries with threads of their own, each gets the machine alone.

    Returns:
        Seconds of each call in each round.
    """
    calls_at_once = {}
    first = {name: seconds(call, args.device) for name, call in calls.items()}
    for name, call in calls.items():
        calls_at_once[name] = 1
        if not args.quick and first[name] < LONG_SECONDS:
            calls_at_once[name] = min(MOST_CALLS, math.ceil(LEAST_SECONDS / seconds(call, args.device)))
    times: Times = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            if not args.quick:
                time.sleep(pause)
            times[name].append(seconds(call, args.device, calls_at_once[name], args.clock))
    return times


def ratio(times: Times, name: str, reference: str) -> float:
    """Return the median over the rounds of one's time over another's in the same round."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference], strict=True))


def median_ms(times: Times, name: str) -> float:
    """Return the median in milliseconds."""
    return statistics.median(times[name]) * 1e3


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Say what it was measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "system": platform.platform(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """Return an installed package's version; None if it is not, and run from its repository for example."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report_of(name: str, args: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the result of benchmark ``name``: its rows, and where, with what and when they were measured."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = version(package)
    return {
        "benchmark": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(args),
        "versions": versions,
        "settings": {key: value for key, value in vars(args).items() if not isinstance(value, Path)},
        "rows": list(rows),
    }


def collect(name: str, args: argparse.Namespace, parts: Iterable[Sequence[Mapping[str, Any]]]) -> list[Any]:
    """Return the rows of all parts of benchmark ``name``; they are written as soon as each part is there."""
    rows: list[Any] = []
    for part in parts:
        rows.extend(part)
        write(args.json, report_of(name, args, rows))
    return rows


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a result as JSON, which has no NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def title(text: str, args: argparse.Namespace) -> str:
    """Title of a table, with the machine."""
    where = machine(args)
    clock = ", CPU time" if args.clock == "cpu" else ""
    threads = ", ".join(map(str, args.threads)) if isinstance(args.threads, list) else where["threads"]
    return f"{text}; medians of {args.rounds} rounds{clock}; {where['gpu'] or where['cpu']}, {threads} threads"
