"""Against numbers worked out by hand, and Student's formula written out."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
from scipy import stats

from mn_lightning.compare.report.results import (
    Curve,
    Curves,
    Point,
    best,
    best_after,
    first_not_finite,
    first_to_reach,
    paired_difference,
    race,
    spacing,
    summarize,
    unsteadiness,
)

NAN, INF = math.nan, math.inf


def curve(*values: float, step: int = 10, seconds: float = 2.0) -> Curve:
    return tuple(Point(step * i, seconds * i, value) for i, value in enumerate(values, 1))


def test_best_so_far() -> None:
    points = curve(0.1, 0.5, 0.4, 0.6)
    assert [best_after(points, fraction, "max") for fraction in (0.2, 0.25, 0.5, 0.75, 1)] == [None, 0.1, 0.5, 0.5, 0.6]
    assert [best_after(points, fraction, "min") for fraction in (0.25, 1)] == [0.1, 0.1]
    assert best_after((), 1, "max") is None


def test_what_is_not_a_number_is_no_best() -> None:
    assert best(curve(NAN, 0.3, NAN), "max") == 0.3
    assert best(curve(NAN, 0.3, NAN), "min") == 0.3
    assert best(curve(NAN), "max") is None
    assert best(curve(INF, 0.3, -INF), "max") == best(curve(INF, 0.3, -INF), "min") == 0.3
    assert first_to_reach(curve(INF, 0.3, 0.5), 0.4, "max") == Point(30, 6.0, 0.5)
    assert first_to_reach(curve(-INF, 0.3), 0.4, "min") == Point(20, 4.0, 0.3)


def test_infinite_scores_make_no_interval_of_nans() -> None:
    baseline = Curves("B", {seed: curve(0.5 + 0.1 * seed) for seed in range(3)})
    variant = Curves("V", {0: curve(INF), 1: curve(0.7, INF), 2: curve(0.9, NAN)})
    found = paired_difference(variant, baseline, "max")
    assert found.seeds == 2
    assert found.low is not None
    assert found.high is not None
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


def test_the_first_value_that_is_not_finite() -> None:
    rows = [{"step": 5.0, "a": 1.0}, {"step": 10.0, "a": 2.0, "b": -INF}, {"step": 15.0, "a": NAN}]
    assert first_not_finite(rows) == ("b", 10)
    assert first_not_finite(rows[:1]) is None


def test_the_spacing_of_evaluations() -> None:
    assert spacing(()) is spacing(curve(0.5)) is None
    epochs = tuple(Point(20 * i, 1, 0.5, 2 * i) for i in range(4))
    assert spacing(epochs) == (20, 2)
    within = tuple(Point(7 * i, 1, 0.5, i // 3) for i in range(9))
    assert spacing(within) == (7, 0)


def test_the_first_evaluation_that_is_as_good() -> None:
    assert first_to_reach(curve(0.1, 0.5, 0.4, 0.6), 0.5, "max") == Point(20, 4.0, 0.5)
    assert first_to_reach(curve(9, NAN, 5, 3), 5, "min") == Point(30, 6.0, 5)
    assert first_to_reach(curve(0.1, 0.2), 0.5, "max") is None


def test_summaries() -> None:
    assert summarize([1.0, None, 3.0]) == (2.0, math.sqrt(2), 2)
    assert summarize([4.0]) == (4.0, None, 1)
    assert summarize([None]) == (None, None, 0)


def test_a_race() -> None:
    baseline = Curves("B", {0: curve(0.1, 0.5, 0.4, 0.5), 1: curve(0.1, 0.2, 0.3, 0.4), 2: curve(0.9)})
    # As good as 0.5 at 10 steps instead of 20; as good as 0.4 at 40 instead of 40; never as good as 0.9.
    variant = Curves("V", {0: curve(0.6, seconds=3), 1: curve(0, 0, 0, 0.4, seconds=3), 2: curve(0.1), 3: curve(1.0)})
    steps = race(variant, baseline, "max", "step")
    assert steps.cost == (25, stdev([10, 40]), 2)
    assert steps.of_baseline == mean([20, 40])  # of the same seeds: not of the one that was never as good
    assert (steps.reached, steps.seeds) == (2, 3)
    seconds = race(variant, baseline, "max", "seconds")
    assert seconds.cost.mean == 7.5
    assert seconds.of_baseline == mean([4, 8])


def test_a_race_that_nobody_finishes_has_no_number() -> None:
    never = race(Curves("V", {0: curve(3.0)}), Curves("B", {0: curve(2.0)}), "min", "step")
    assert never == ((None, None, 0), None, 0, 1)


def test_the_baseline_reaches_itself() -> None:
    baseline = Curves("B", {0: curve(0.1, 0.5, 0.4, 0.5), 1: curve(0.1, 0.2)})
    assert race(baseline, baseline, "max", "step") == ((20, 0, 2), 20, 2, 2)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_paired_differences_have_students_interval(mode: str) -> None:
    ours, theirs = [0.5, 0.7, 0.65, 0.9], [0.4, 0.65, 0.7, 0.6]
    variant = Curves("V", {seed: curve(value) for seed, value in enumerate(ours)} | {9: curve(1.0)})
    baseline = Curves("B", {seed: curve(value) for seed, value in enumerate(theirs)} | {8: curve(0.0)})
    found = paired_difference(variant, baseline, mode)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    half = stats.t.ppf(0.975, df=3) * stdev(differences) / math.sqrt(4)
    assert found.mean == pytest.approx(mean(differences))
    assert found.low == pytest.approx(mean(differences) - half)
    assert found.high == pytest.approx(mean(differences) + half)
    assert found.seeds == 4
    t = mean(differences) / (stdev(differences) / math.sqrt(4))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), df=3))
    assert found.by_seed == pytest.approx(differences)


def test_few_or_equal_differences() -> None:
    one = paired_difference(Curves("V", {0: curve(0.5)}), Curves("B", {0: curve(0.25)}), "max")
    assert one[:5] == (0.25, None, None, 1, None)
    same = {0: curve(0.5), 1: curve(0.25)}
    assert paired_difference(Curves("V", same), Curves("B", same), "max")[:5] == (0, None, None, 2, None)
    assert paired_difference(Curves("V", {}), Curves("B", same), "max")[:5] == (None, None, None, 0, None)
    diverged = paired_difference(Curves("V", {0: curve(NAN), 1: curve(0.5)}), Curves("B", same), "max")
    assert diverged[:5] == (0.25, None, None, 1, None)


def test_three_images_more_with_every_seed_are_no_certainty() -> None:
    """Shares of 270 images, rounded to float32 as metrics are; the rounding is no spread."""
    theirs = {seed: curve(float(np.float32(count / 270))) for seed, count in enumerate((261, 264, 262))}
    ours = {seed: curve(float(np.float32(count / 270))) for seed, count in enumerate((264, 267, 265))}
    found = paired_difference(Curves("V", ours), Curves("B", theirs), "max")
    assert found[:5] == (pytest.approx(3 / 270, abs=1e-6), None, None, 3, None)


def test_unsteadiness_is_the_deviation_within_ten_epochs() -> None:
    values = [0.1, 0.5, 0.3, 0.7, 0.2, 0.6, 0.4, 0.9, 0.8, 0.5, 0.1, 0.3]
    points = tuple(
        Point(step, 1.0, value, epoch) for epoch, (step, value) in enumerate(zip(range(12), values, strict=True))
    )
    windows = [values[0:10], values[1:11], values[2:12]]
    assert unsteadiness(points) == pytest.approx(mean(stdev(window) for window in windows))
    assert unsteadiness(points[:9]) is None
    assert unsteadiness(()) is None
    # Several evaluations in an epoch, and one that is no number: both of epoch 9 end windows of all values.
    more = [*values, *values[:8]]
    twice = tuple(Point(1, 1.0, value, position // 2) for position, value in enumerate(more))
    several = (*twice[:5], Point(1, 1.0, NAN, 2), *twice[5:])
    assert unsteadiness(several) == pytest.approx(stdev(more))
