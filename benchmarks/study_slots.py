"""How busy a study keeps the slots of a cluster: 84 runs of unequal length on 8, 64 and 512 slots.

    python -m benchmarks.study_slots [--unit 0.5]

Needs no GPU and trains nothing. The runs are those of a study of 7 variants with 12 seeds. The slowest variant takes
2.5 times as long as the fastest one, and each run 10% more or less, at random (log-normal, seed 0). ``simulated``
computes the schedule: each slot takes the next run in the study's order as soon as it is free. ``measured`` has joblib
dispatch the same runs, which sleep for their length in units of ``--unit`` seconds, as ``mn-lightning compare``
dispatches its own. ``limit`` is the shortest time that any schedule can take, and ``limited by`` where it comes from:
the work divided by the slots, or the longest run.

    84 runs, 148.8 units of work      simulated  measured  limit  limited by       slots busy
                          8 slots         19.77     19.87  18.61  work / slots            94%
                         64 slots          3.57      3.61   2.99  the longest run         65%
                        512 slots          2.99      3.13   2.99  the longest run         10%

Two CPU cores shared with other programs, Python 3.11, joblib 1.6; one round each. With 8 slots the end of the study
costs 6%: some slots have nothing left to do. From 50 slots on no schedule can be faster than the longest run, and from
84 slots on each run has a slot of its own.
"""

import argparse
import heapq
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed, parallel_config

from mn_lightning.utils.tables import print_table

VARIANTS, SEEDS, SLOWEST, SPREAD = 7, 12, 2.5, 0.1
SLOTS = (8, 64, 512)


class Row(NamedTuple):
    """The schedule on some slots; times in those of the fastest variant.

    Attributes:
        slots: number of runs at the same time.
        simulated: time until the last run ends.
        measured: the same with joblib.
        limit: the shortest possible time.
        limited_by: where it comes from.
        busy: share of the slots' time in which a run is trained, simulated.
    """

    slots: int
    simulated: float
    measured: float
    limit: float
    limited_by: str
    busy: float


def run_lengths() -> list[float]:
    """Return the lengths of the runs, in the study's order: all variants of a seed, then those of the next."""
    noise = np.random.default_rng(0).normal(0, SPREAD, (SEEDS, VARIANTS))
    lengths: list[float] = (np.linspace(1, SLOWEST, VARIANTS) * np.exp(noise)).ravel().tolist()
    return lengths


def schedule(lengths: Sequence[float], slots: int) -> float:
    """Return when the last run ends."""
    free = [0.0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def measure(lengths: Sequence[float], slots: int, unit: float) -> float:
    """Have joblib dispatch the runs, and return when the last one ends, in units."""
    started = time.perf_counter()
    with parallel_config(backend="threading", n_jobs=slots):
        parallel = Parallel(batch_size=1, pre_dispatch=slots, return_as="generator_unordered")
        for _ in parallel(delayed(time.sleep)(length * unit) for length in lengths):
            pass
    return (time.perf_counter() - started) / unit


def row(lengths: Sequence[float], slots: int, unit: float) -> Row:
    """Compute and measure one number of slots."""
    shared, longest = sum(lengths) / slots, max(lengths)
    simulated = schedule(lengths, slots)
    by = "work / slots" if shared > longest else "the longest run"
    return Row(slots, simulated, measure(lengths, slots, unit), max(shared, longest), by, shared / simulated)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Compute, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unit", type=float, default=0.5, help="seconds of the fastest variant's run, where measured")
    unit = parser.parse_args(arguments).unit
    lengths = run_lengths()
    rows = [row(lengths, slots, unit) for slots in SLOTS]
    header = ("slots", "simulated", "measured", "limit", "limited by", "slots busy")
    lines = [
        (r.slots, f"{r.simulated:.2f}", f"{r.measured:.2f}", f"{r.limit:.2f}", r.limited_by, f"{r.busy:.0%}")
        for r in rows
    ]
    print_table(f"{len(lengths)} runs, {sum(lengths):.1f} units of work", header, lines)
    return rows


if __name__ == "__main__":
    main()
