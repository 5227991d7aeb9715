"""Draw the metric against optimizer steps (Figure 2 of Kalayeh & Shah), and the differences to the baseline."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mn_lightning.compare.report.results import Comparison, Curve, Point, best_after
from mn_lightning.compare.report.verdicts import counted_seeds
from mn_lightning.compare.study.study import Mode, Study
from mn_lightning.plots import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    palette.BLACK,
    palette.ORANGE,
    palette.SKY_BLUE,
    palette.GREEN,
    palette.VERMILION,
    palette.BLUE,
    palette.PURPLE,
)
STYLES = ("-", "--", "-.", ":")
_FONT = 11
"""Font size in points; with it, the picture can be read when it is 400 pixels wide."""


def plot_curves(study: Study, comparisons: Sequence[Comparison], floor: float | None = None) -> "Figure":
    """Draw the means over seeds on top, and below them a panel for each variant that is compared to another.

    A panel shows by how much the variant's best value so far differs from its baseline's with the same seed: the mean
    over seeds, and one standard deviation as a band. Its axis fits the differences after the first quarter of the
    training, because earlier ones are always large.

    Args:
        study: for its name and the metric's.
        comparisons: of all variants; variants without a finished run are left out.
        floor: a value that cannot be beaten, drawn as a dotted line.
    """
    from matplotlib.figure import Figure  # it takes a second to import, and only a report needs it

    drawn = [(found, *_look(position)) for position, found in enumerate(comparisons) if _runs(found)]
    by_name = {found.variant: found for found in comparisons}
    pairs = [
        (found, colour, style, differences)
        for found, colour, style in drawn
        if not found.is_baseline and (differences := _differences(found, by_name[found.baseline], study.mode))
    ]
    columns = min(max(len(pairs), 1), 2 if len(pairs) < 9 else 3)
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(6.4, 3.8 + 0.24 * math.ceil(len(drawn) / 2) + 2.0 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.8, *[2.0] * rows])
    above = figure.add_subplot(grid[0, :])
    _draw_means(above, study, drawn, floor)
    panels: list[Axes] = []
    for number, (found, colour, style, differences) in enumerate(pairs):
        row, column = divmod(number, columns)
        panel = figure.add_subplot(grid[1 + row, column], sharex=above, sharey=panels[0] if panels else None)
        panels.append(panel)
        _draw_difference(panel, found, colour, style, differences)
        panel.tick_params(labelleft=column == 0, labelbottom=number + columns >= len(pairs))
        if column == 0:
            panel.set_ylabel("best so far,\ndifference", fontsize=_FONT - 1)
        if number + columns >= len(pairs):
            panel.set_xlabel("optimizer steps", fontsize=_FONT)
    if panels:
        panels[0].set_ylim(*_limits([differences for *_, differences in pairs]))
    else:
        above.set_xlabel("optimizer steps", fontsize=_FONT)
    if above.get_legend_handles_labels()[0]:
        figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False,
                      fontsize=_FONT - 1)  # fmt: skip
    return figure


def _look(position: int) -> tuple[str, str]:
    return COLOURS[position % len(COLOURS)], STYLES[position // len(COLOURS) % len(STYLES)]


def _runs(found: Comparison) -> list[Curve]:
    """Return the curves that have a value, without values that are not finite."""
    finite = [tuple(p for p in points if math.isfinite(p.value)) for points in found.curves.by_seed.values()]
    return [points for points in finite if points]


def _draw_means(axes: "Axes", study: Study, drawn: Sequence[tuple[Comparison, str, str]], floor: float | None) -> None:
    several = sum(found.is_baseline for found, *_ in drawn) > 1  # the same colours as their curves
    alone = len(drawn) == 1
    for found, colour, style in drawn:
        runs = _runs(found)
        steps, values = _on_common_steps(runs)
        label = f"{found.variant} ({counted_seeds(len(runs))})"
        axes.plot(steps, values.mean(0), color=colour, linestyle=style, label=label)
        if alone and len(runs) > 1:
            _band(axes, steps, values, colour, _range_of(study.mode, values))
    for found, colour, _ in drawn:
        target = found.scores[-1].mean
        if found.is_baseline and target is not None:
            grey = colour if several else palette.GREY
            axes.axhline(target, color=grey, linestyle="--", linewidth=1, label=f"best of {found.variant}")
    if floor is not None:
        axes.axhline(floor, color=palette.GREY, linestyle=":", linewidth=1, label="real against real")
    axes.set_ylabel(
        study.metric if len(study.metric) < 30 else study.metric.replace(" with ", "\nwith "), fontsize=_FONT
    )
    axes.grid(alpha=0.3)


def _draw_difference(panel: "Axes", found: Comparison, colour: str, style: str, differences: Sequence[Curve]) -> None:
    steps, values = _on_common_steps(list(differences))
    panel.axhline(0, color=palette.GREY, linewidth=1)
    panel.plot(steps, values.mean(0), color=colour, linestyle=style, label=found.variant)
    if len(differences) > 1:
        _band(panel, steps, values, colour, (-math.inf, math.inf))
    panel.set_title(f"{found.variant} − {found.baseline}", fontsize=_FONT - 1)
    panel.grid(alpha=0.3)


def _band(axes: "Axes", steps: np.ndarray, values: np.ndarray, colour: str, inside: tuple[float, float]) -> None:
    mean, spread = values.mean(0), values.std(0, ddof=1)
    low, high = np.clip(mean - spread, *inside), np.clip(mean + spread, *inside)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)


def _range_of(mode: Mode, values: np.ndarray) -> tuple[float, float]:
    """Guess the range of a metric from its values: [0, 1] for accuracies, above 0 for distances."""
    low = 0.0 if values.min() >= 0 else -math.inf
    return low, 1.0 if mode == "max" and values.max() <= 1 else math.inf


def _differences(found: Comparison, baseline: Comparison, mode: Mode) -> list[Curve]:
    """For each seed of both: best value so far, variant minus baseline, from the step at which both have a value."""
    curves = []
    for seed, points in found.curves.by_seed.items():
        ours, theirs = ({p.step: p.value for p in _best_so_far(own, mode)} for own in
                        (points, baseline.curves.by_seed.get(seed, ())))  # fmt: skip
        if not ours or not theirs:
            continue
        start, end = max(min(ours), min(theirs)), min(max(ours), max(theirs))
        steps = [step for step in sorted({*ours, *theirs}) if start <= step <= end]
        values = _at(steps, ours) - _at(steps, theirs)
        curves.append(tuple(Point(step, 0.0, float(value)) for step, value in zip(steps, values, strict=True)))
    return [points for points in curves if points]


def _best_so_far(points: Curve, mode: Mode) -> list[Point]:
    """Return each point with the best value up to it."""
    values = [(p.step, best_after(points[: i + 1], 1.0, mode)) for i, p in enumerate(points)]
    return [Point(step, 0.0, value) for step, value in values if value is not None]


def _at(steps: Sequence[float], values: dict[float, float]) -> np.ndarray:
    return np.interp(steps, list(values), list(values.values()))


def _limits(pairs: Sequence[Sequence[Curve]]) -> tuple[float, float]:
    """Return the limits of an axis that shows 0 and the means and bands after the first quarter."""
    ends = [0.0]
    for differences in pairs:
        steps, values = _on_common_steps(list(differences))
        late = steps >= steps[-1] / 4
        mean = values.mean(0)[late]
        spread = values.std(0, ddof=1)[late] if len(values) > 1 else 0.0
        ends += [float((mean - spread).min()), float((mean + spread).max())]
    room = 0.08 * (max(ends) - min(ends)) or 1e-3
    return min(ends) - room, max(ends) + room


def _on_common_steps(runs: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the runs at all steps between the latest start and the earliest end."""
    start = max(points[0].step for points in runs)
    end = min(points[-1].step for points in runs)
    steps = np.unique([point.step for points in runs for point in points if start <= point.step <= end])
    values = [np.interp(steps, [p.step for p in points], [p.value for p in points]) for points in runs]
    return steps, np.array(values)
