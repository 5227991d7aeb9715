"""Compute the numbers of a report: scores, steps and seconds to the baseline's best, paired differences."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import NamedTuple

from scipy import stats

from mn_lightning.compare.runs.recorder import Row
from mn_lightning.compare.study.study import FRACTIONS, Mode, Study

CONFIDENCE = 0.95
"""Confidence level of the intervals of paired differences."""

WINDOW = 10
"""Length, in epochs, of the windows in which the metric's ups and downs are measured."""

ROUNDING = 1e-6
"""Largest relative difference that float32 can make between equal scores."""


class Point(NamedTuple):
    """One evaluation.

    Attributes:
        step: optimizer steps before the evaluation.
        seconds: seconds of training before it, without validation.
        value: of the metric.
        epoch: the epoch in which it was made, from 0.
    """

    step: float
    seconds: float
    value: float
    epoch: float = 0


Curve = tuple[Point, ...]


class Summary(NamedTuple):
    """Mean and standard deviation of ``n`` numbers; the mean is None for n < 1, the standard deviation for n < 2."""

    mean: float | None
    std: float | None
    n: int


class Race(NamedTuple):
    """How fast a variant reached the baseline's best, in steps or seconds.

    Attributes:
        cost: steps or seconds until then, over the seeds that reached it.
        of_baseline: mean of the baseline's own steps or seconds, over the same seeds.
        reached: number of seeds that reached it.
        seeds: number of seeds that could be compared.
    """

    cost: Summary
    of_baseline: float | None
    reached: int
    seeds: int


class Difference(NamedTuple):
    """Difference between best scores, variant minus baseline, paired by seed.

    Attributes:
        mean: over the seeds; None without a pair.
        low: lower end of the 95% interval; None if the differences have no spread.
        high: its upper end.
        seeds: number of pairs.
        p: of the paired t test, for this variant alone; None if the differences have no spread.
        by_seed: the differences.
    """

    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    p: float | None = None
    by_seed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curves:
    """The curves of one variant by seed.

    Attributes:
        variant: its name.
        by_seed: the points for each seed whose run has finished.
        broken: seeds of runs that logged a value that is not finite, for any metric.
    """

    variant: str
    by_seed: dict[int, Curve]
    broken: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Comparison:
    """Everything that the report says about one variant.

    Attributes:
        curves: of its runs.
        baseline: the variant that it is compared to; a baseline is compared to itself.
        unsteadiness: standard deviation of the metric within windows of :data:`WINDOW` epochs, mean over the windows of
            each run.
        scores: best scores after each of :data:`~mn_lightning.compare.study.study.FRACTIONS` of the training.
        steps: steps to the baseline's best.
        seconds: seconds to the baseline's best.
        difference: of the best scores to the baseline's.
        broken: the runs of both that logged a value that is not finite, as ``"BN, seed 0"``.
    """

    curves: Curves
    baseline: str
    unsteadiness: Summary
    scores: list[Summary]
    steps: Race
    seconds: Race
    difference: Difference
    broken: tuple[str, ...] = ()

    @property
    def variant(self) -> str:
        """The variant's name."""
        return self.curves.variant

    @property
    def is_baseline(self) -> bool:
        """Whether it is compared to itself."""
        return self.variant == self.baseline


def compare_variants(study: Study, curves: Sequence[Curves]) -> list[Comparison]:
    """Compare each variant with its baseline.

    Args:
        study: says which variants are baselines, and whether more is better.
        curves: of all variants.
    """
    by_name = {found.variant: found for found in curves}
    return [_compare(study, found, by_name[study.baseline_of(found.variant)]) for found in curves]


def _compare(study: Study, found: Curves, baseline: Curves) -> Comparison:
    scores = [[best_after(points, part, study.mode) for points in found.by_seed.values()] for part in FRACTIONS]
    return Comparison(
        found,
        baseline.variant,
        summarize([unsteadiness(points) for points in found.by_seed.values()]),
        [summarize(values) for values in scores],
        race(found, baseline, study.mode, "step"),
        race(found, baseline, study.mode, "seconds"),
        paired_difference(found, baseline, study.mode),
        tuple(f"{own.variant}, seed {seed}" for own in (found, baseline) for seed in sorted(own.broken)),
    )


def curve(rows: Sequence[Row], metric: str) -> Curve:
    """Return the evaluations that logged ``metric``."""
    return tuple(Point(row["step"], row["seconds"], row[metric], row["epoch"]) for row in rows if metric in row)


def first_not_finite(rows: Sequence[Row]) -> tuple[str, float] | None:
    """Return the metric and the step of the first value that is not finite; None if all values are finite.

    Examples:
        >>> first_not_finite([{"step": 5, "loss": 0.5}, {"step": 10, "loss": float("nan")}])
        ('loss', 10)
    """
    broken = ((name, row["step"]) for row in rows for name, value in row.items() if not math.isfinite(value))
    return next(broken, None)


def spacing(points: Curve) -> tuple[float, float] | None:
    """Return the median steps and epochs between two evaluations; None if there are fewer than two evaluations.

    Examples:
        >>> spacing((Point(20, 1.0, 0.5, 0), Point(40, 2.0, 0.7, 1), Point(60, 2.0, 0.7, 2)))
        (20.0, 1.0)
    """
    pairs = list(itertools.pairwise(points))
    if not pairs:
        return None
    return median(b.step - a.step for a, b in pairs), median(b.epoch - a.epoch for a, b in pairs)


def best(points: Sequence[Point], mode: Mode) -> float | None:
    """Return the best value, ignoring values that are not finite; None if there is none.

    Examples:
        >>> best([Point(10, 1.0, 0.5), Point(20, 2.0, 0.7), Point(30, 3.0, float("nan"))], mode="max")
        0.7
    """
    values = [point.value for point in points if math.isfinite(point.value)]
    return (max if mode == "max" else min)(values, default=None)


def best_after(points: Curve, fraction: float, mode: Mode) -> float | None:
    """Return the best value within the first ``fraction`` of the training; None if there was no evaluation in it.

    Examples:
        >>> points = (Point(10, 1.0, 0.5), Point(20, 2.0, 0.7), Point(40, 4.0, 0.9))
        >>> best_after(points, 0.5, mode="max")
        0.7
    """
    end = points[-1].step * fraction * (1 + 1e-9) if points else 0
    return best([point for point in points if point.step <= end], mode)


def unsteadiness(points: Curve) -> float | None:
    """Return the standard deviation (n - 1) of the values within windows of :data:`WINDOW` epochs, mean over windows.

    Figure 2 of Kalayeh & Shah shows it as a band. A window ends at each evaluation; None if the training is shorter
    than a window.

    Examples:
        >>> points = [Point(10 * epoch, 1.0, 0.5 + 0.1 * (epoch % 2), epoch) for epoch in range(12)]
        >>> round(unsteadiness(points), 4)
        0.0527
    """
    there = [point for point in points if math.isfinite(point.value)]
    windows = [
        [other.value for other in there if end.epoch - WINDOW < other.epoch <= end.epoch]
        for end in there
        if end.epoch - there[0].epoch >= WINDOW - 1
    ]
    return fmean(map(stdev, windows)) if windows else None


def first_to_reach(points: Curve, target: float, mode: Mode) -> Point | None:
    """Return the first evaluation that is as good as ``target``; None if there is none.

    Examples:
        >>> first_to_reach((Point(10, 1.0, 0.5), Point(20, 2.0, 0.7)), target=0.6, mode="max").step
        20
    """
    for point in points:
        if math.isfinite(point.value) and (point.value >= target if mode == "max" else point.value <= target):
            return point
    return None


def summarize(values: Sequence[float | None]) -> Summary:
    """Return mean and standard deviation (n - 1) of the values that are not None."""
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
        The cost in these units, the baseline's own cost for the same seeds, and how many seeds reached its best.

    Examples:
        >>> baseline = Curves("BatchNorm", {0: (Point(10, 1.0, 0.5), Point(20, 2.0, 0.7))})
        >>> variant = Curves("MixtureNorm", {0: (Point(10, 1.5, 0.7), Point(20, 3.0, 0.6))})
        >>> found = race(variant, baseline, "max", by="step")
        >>> found.cost.mean, found.of_baseline, found.reached
        (10.0, 20.0, 1)
    """
    costs, references, seeds = [], [], 0
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
            references.append(getattr(reference, by))
    return Race(summarize(costs), summarize(references).mean, len(costs), seeds)


def paired_difference(variant: Curves, baseline: Curves, mode: Mode) -> Difference:
    """Compute the difference of the best scores over common seeds, with Student's interval for paired samples.

    Args:
        variant: its curves.
        baseline: the baseline's.
        mode: whether more or less of the metric is better.

    Returns:
        Mean of variant minus baseline in the metric's units, its 95% interval, and the p of the test. There is no
        interval with one seed, nor if all seeds have the same difference, which does not show how much it would vary.
    """
    pairs = [(best(variant.by_seed[seed], mode), best(own, mode)) for seed, own in baseline.by_seed.items()
             if seed in variant.by_seed]  # fmt: skip
    ours = [a for a, b in pairs if a is not None and b is not None]
    theirs = [b for a, b in pairs if a is not None and b is not None]
    if not ours:
        return Difference(None, None, None, 0)
    differences = tuple(a - b for a, b in zip(ours, theirs, strict=True))
    mean = fmean(differences)
    # A coarse metric (a share of few images) makes equal differences; they are not a sign of certainty.
    if max(differences) - min(differences) <= ROUNDING * max(map(abs, [*ours, *theirs])):
        return Difference(mean, None, None, len(ours), None, differences)
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high), len(ours), float(test.pvalue), differences)
