"""What the rows of the runs say: scores, steps and seconds to the baseline's best, paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from scipy import stats

from mn_lightning.compare.runs.recorder import Row
from mn_lightning.compare.study.study import Mode

CONFIDENCE = 0.95
ROUNDING = 1e-6
"""Relative difference of scores that float32 makes."""


class Point(NamedTuple):
    """One evaluation.

    Attributes:
        step: optimizer steps until then.
        seconds: of training until then, without validation.
        value: of the metric.
    """

    step: float
    seconds: float
    value: float


Curve = tuple[Point, ...]


class Summary(NamedTuple):
    """Mean, standard deviation (None for one number) and number of numbers; the mean is None if there are none."""

    mean: float | None
    std: float | None
    n: int


class Race(NamedTuple):
    """How fast a variant reached the baseline's best, in steps or seconds.

    Attributes:
        cost: over the seeds that reached it.
        saving: mean share of the baseline's own cost that was saved, over these; negative where it took more.
        reached: number of seeds that reached it.
        seeds: number of seeds that could be compared.
    """

    cost: Summary
    saving: float | None
    reached: int
    seeds: int


class Difference(NamedTuple):
    """Paired difference of best scores, variant minus baseline, with a 95% interval if there is a spread over seeds."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Curves:
    """The curves of one variant by seed."""

    variant: str
    by_seed: dict[int, Curve]


def curve(rows: Sequence[Row], metric: str) -> Curve:
    """Return the evaluations that logged ``metric``."""
    return tuple(Point(row["step"], row["seconds"], row[metric]) for row in rows if metric in row)


def best(points: Sequence[Point], mode: Mode) -> float | None:
    """Return the best value; one that is not a number is none.

    Examples:
        >>> best([Point(10, 1.0, 0.5), Point(20, 2.0, 0.7), Point(30, 3.0, float("nan"))], mode="max")
        0.7
    """
    values = [point.value for point in points if not math.isnan(point.value)]
    return (max if mode == "max" else min)(values, default=None)


def best_after(points: Curve, fraction: float, mode: Mode) -> float | None:
    """Return the best value until a fraction of the steps; None if there was no evaluation until then.

    Examples:
        >>> points = (Point(10, 1.0, 0.5), Point(20, 2.0, 0.7), Point(40, 4.0, 0.9))
        >>> best_after(points, 0.5, mode="max")
        0.7
    """
    end = points[-1].step * fraction * (1 + 1e-9) if points else 0
    return best([point for point in points if point.step <= end], mode)


def first_to_reach(points: Curve, target: float, mode: Mode) -> Point | None:
    """Return the first evaluation that is as good as ``target``; None if there is none.

    Examples:
        >>> first_to_reach((Point(10, 1.0, 0.5), Point(20, 2.0, 0.7)), target=0.6, mode="max").step
        20
    """
    for point in points:
        if point.value >= target if mode == "max" else point.value <= target:
            return point
    return None


def summarize(values: Sequence[float | None]) -> Summary:
    """Mean and standard deviation (n - 1) of the values that are there."""
    there = [value for value in values if value is not None]
    return Summary(fmean(there) if there else None, stdev(there) if len(there) > 1 else None, len(there))


def race(variant: Curves, baseline: Curves, mode: Mode, by: str) -> Race:
    """Compare, seed by seed, when the variant reaches the best score of the baseline's run with that seed.

    Args:
        variant: its curves.
        baseline: the baseline's.
        mode: whether more or less of the metric is better.
        by: ``"step"`` or ``"seconds"``.

    Returns:
        Cost in these units, share of the baseline's that was saved, and how many seeds got there.

    Examples:
        >>> baseline = Curves("BatchNorm", {0: (Point(10, 1.0, 0.5), Point(20, 2.0, 0.7))})
        >>> variant = Curves("MixtureNorm", {0: (Point(10, 1.5, 0.7), Point(20, 3.0, 0.6))})
        >>> found = race(variant, baseline, "max", by="step")
        >>> found.cost.mean, found.saving, found.reached
        (10.0, 0.5, 1)
    """
    costs, savings, seeds = [], [], 0
    for seed, points in variant.by_seed.items():
        own = baseline.by_seed.get(seed, ())
        target = best(own, mode)
        if target is None:
            continue
        seeds += 1
        reached = first_to_reach(points, target, mode)
        reference = first_to_reach(own, target, mode)
        if reached is not None and reference is not None:
            costs.append(getattr(reached, by))
            savings.append(1 - getattr(reached, by) / getattr(reference, by))
    return Race(summarize(costs), fmean(savings) if savings else None, len(costs), seeds)


def paired_difference(variant: Curves, baseline: Curves, mode: Mode) -> Difference:
    """Difference of the best scores over the seeds that both have, with Student's interval for paired samples.

    Args:
        variant: its curves.
        baseline: the baseline's.
        mode: whether more or less of the metric is better.

    Returns:
        Mean of variant minus baseline in the metric's units, and the ends of its 95% interval: none with one seed, or
        with the same difference in all, which says nothing of how much it would vary.
    """
    pairs = [(best(variant.by_seed[seed], mode), best(own, mode)) for seed, own in baseline.by_seed.items()
             if seed in variant.by_seed]  # fmt: skip
    ours = [a for a, b in pairs if a is not None and b is not None]
    theirs = [b for a, b in pairs if a is not None and b is not None]
    if not ours:
        return Difference(None, None, None, 0)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = fmean(differences)
    # Equal differences are what a coarse metric makes (shares of few images), not a sign of certainty.
    if max(differences) - min(differences) <= ROUNDING * max(map(abs, [*ours, *theirs])):
        return Difference(mean, None, None, len(ours))
    interval = stats.ttest_rel(ours, theirs).confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high), len(ours))
