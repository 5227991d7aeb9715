"""What a figure shows, read from matplotlib's own objects."""

from matplotlib.colors import to_hex

from mn_lightning.compare.report.curves import COLOURS, plot_curves
from mn_lightning.compare.report.results import Curves, Point, compare_variants
from mn_lightning.compare.study.study import Study

BEST = {"BN-1": 0.5, "MN-1": 0.6, "BN-2": 0.7, "MN-2": 0.8}


def study(baseline: str | dict[str, str]) -> Study:
    return Study("mine", (), {name: {} for name in BEST}, baseline, "val_acc", seeds=(0,))


def dashed(baseline: str | dict[str, str]) -> list[tuple[float, str, str]]:
    """Height, label and colour of the horizontal lines."""
    curves = [Curves(name, {0: (Point(1, 1, 0.1), Point(2, 2, best))}) for name, best in BEST.items()]
    (axes,) = plot_curves(study(baseline), compare_variants(study(baseline), curves)).axes
    lines = [line for line in axes.lines if line.get_linestyle() == "--"]
    return [(line.get_ydata()[0], str(line.get_label()), to_hex(line.get_color()).upper()) for line in lines]


def test_the_baselines_best_is_dashed() -> None:
    assert dashed("BN-1") == [(0.5, "best of BN-1", "#666666")]


def test_each_baselines_best_is_dashed_in_its_colour() -> None:
    assert dashed({"MN-1": "BN-1", "MN-2": "BN-2"}) == [
        (0.5, "best of BN-1", COLOURS[0]),
        (0.7, "best of BN-2", COLOURS[2]),
    ]
