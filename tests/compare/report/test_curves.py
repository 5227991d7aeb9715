"""What a figure shows, read from matplotlib's own objects."""

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from mn_lightning.compare.report.curves import COLOURS, plot_curves
from mn_lightning.compare.report.results import Curves, Point, compare_variants
from mn_lightning.compare.study.study import Mode, Study

BEST = {"BN-1": 0.5, "MN-1": 0.6, "BN-2": 0.7, "MN-2": 0.8}


def study(baseline: str | dict[str, str]) -> Study:
    return Study("mine", (), {name: {} for name in BEST}, baseline, "val_acc", seeds=(0,))


def dashed(baseline: str | dict[str, str]) -> list[tuple[float, str, str]]:
    """Height, label and colour of the horizontal lines."""
    curves = [Curves(name, {0: (Point(1, 1, 0.1), Point(2, 2, best))}) for name, best in BEST.items()]
    axes, *_ = plot_curves(study(baseline), compare_variants(study(baseline), curves)).axes
    lines = [line for line in axes.lines if line.get_linestyle() == "--"]
    return [(line.get_ydata()[0], str(line.get_label()), to_hex(line.get_color()).upper()) for line in lines]


def test_the_baselines_best_is_dashed() -> None:
    assert dashed("BN-1") == [(0.5, "best of BN-1", "#666666")]


def test_each_baselines_best_is_dashed_in_its_colour() -> None:
    assert dashed({"MN-1": "BN-1", "MN-2": "BN-2"}) == [
        (0.5, "best of BN-1", COLOURS[0]),
        (0.7, "best of BN-2", COLOURS[2]),
    ]


def drawn(by_variant: dict[str, dict[int, list[float]]], mode: Mode = "max") -> list[Axes]:
    """Evaluations at 10, 20, ... steps; the first variant is the baseline of all."""
    first, *_ = by_variant
    found = Study("mine", (), {name: {} for name in by_variant}, first, "val_acc", mode)
    curves = [
        Curves(
            name, {seed: tuple(Point(10 * i, 1, v) for i, v in enumerate(values, 1)) for seed, values in runs.items()}
        )
        for name, runs in by_variant.items()
    ]
    return list(plot_curves(found, compare_variants(found, curves)).axes)


def heights(axes: Axes) -> np.ndarray:
    """Of the bands' corners."""
    return np.concatenate([path.vertices[:, 1] for band in axes.collections for path in band.get_paths()])


def test_a_panel_has_the_difference_of_the_best_so_far() -> None:
    """Best so far of BN 0.5, 0.8, 0.8 and 0.4, 0.4, 0.9; of MN 0.6, 0.6, 0.9 and 0.7, 0.7, 0.9."""
    _, panel = drawn({"BN": {0: [0.5, 0.8, 0.7], 1: [0.4, 0.3, 0.9]}, "MN": {0: [0.6, 0.5, 0.9], 1: [0.7, 0.6, 0.9]}})
    line = panel.lines[-1]
    assert panel.get_title() == "MN − BN"
    assert list(line.get_xdata()) == [10, 20, 30]
    assert line.get_ydata() == pytest.approx([(0.1 + 0.3) / 2, (-0.2 + 0.3) / 2, (0.1 + 0.0) / 2])
    spread = abs(-0.2 - 0.3) / math.sqrt(2)
    assert {round(value, 6) for value in heights(panel)} >= {round(0.05 + spread, 6), round(0.05 - spread, 6)}


def test_what_less_is_better_for_has_the_lowest_so_far() -> None:
    _, panel = drawn({"BN": {0: [9.0, 5.0, 6.0]}, "MN": {0: [9.0, 7.0, 8.0]}}, "min")
    assert list(panel.lines[-1].get_ydata()) == [0, 2, 2]


def test_small_differences_fill_their_panels() -> None:
    """A hundredth at the end of a training that begins with differences of a third."""
    early, late = [0.1, 0.3, 0.5], [0.97, 0.975, 0.98] * 4
    _, *panels = drawn(
        {
            "BN": {seed: [*early, *late] for seed in (0, 1)},
            "MN": {seed: [0.4, 0.6, 0.8, *(v + 0.01 + 0.001 * seed for v in late)] for seed in (0, 1)},
            "Mode": {seed: [0.1, 0.3, 0.5, *(v - 0.002 * seed for v in late)] for seed in (0, 1)},
        }
    )
    assert len(panels) == 2
    for panel in panels:
        low, high = panel.get_ylim()
        assert low < 0 < 0.012 < high < 0.03


def test_no_band_leaves_the_range_of_an_accuracy() -> None:
    (axes,) = drawn({"BN": {0: [0.1, 1.0], 1: [0.9, 0.7], 2: [0.0, 1.0]}})
    assert heights(axes).min() == 0
    assert heights(axes).max() == 1
    (losses,) = drawn({"BN": {0: [0.1, 3.0], 1: [9.0, 2.0]}}, "min")
    assert heights(losses).min() == 0
    assert heights(losses).max() > 9


def test_values_that_are_not_finite_are_left_out() -> None:
    upper, panel = drawn({"BN": {0: [0.5, 0.6, 0.7]}, "MN": {0: [0.5, math.nan, math.inf]}})
    for axes in (upper, panel):
        assert all(np.isfinite(line.get_ydata()).all() for line in axes.lines)
        assert np.isfinite(axes.get_ylim()).all()


def test_many_variants_share_one_axis() -> None:
    values = {f"MN-{i}": {0: [0.5, 0.5 + i / 100]} for i in range(10)}
    upper, *panels = drawn({"BN": {0: [0.5, 0.5]}, **values})
    assert len(panels) == 10
    assert len({panel.get_ylim() for panel in panels}) == 1
    assert {panel.get_xlim() for panel in panels} == {upper.get_xlim()}
