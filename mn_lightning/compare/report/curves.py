"""Metric against optimizer steps, Figure 2 of Kalayeh & Shah."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mn_lightning.compare.report.results import Comparison, Curve
from mn_lightning.compare.study.study import Study
from mn_lightning.plots import palette

if TYPE_CHECKING:
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


def plot_curves(study: Study, comparisons: Sequence[Comparison], floor: float | None = None) -> "Figure":
    """Draw a line for each variant: mean over seeds, one standard deviation as a band, baselines' best dashed.

    Args:
        study: for its name and the metric's.
        comparisons: of all variants; those without a finished run are left out.
        floor: a value that cannot be beaten, dotted.
    """
    from matplotlib.figure import Figure  # takes a second to import, and only a report needs it

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for position, found in enumerate(comparisons):
        runs = [points for points in found.curves.by_seed.values() if points]
        if not runs:
            continue
        steps, values = _on_common_steps(runs)
        colour = COLOURS[position % len(COLOURS)]
        style = STYLES[position // len(COLOURS) % len(STYLES)]
        mean = values.mean(0)
        label = f"{found.variant} ({len(runs)} seed{'s' * (len(runs) != 1)})"
        axes.plot(steps, mean, color=colour, linestyle=style, label=label)
        if len(runs) > 1:
            spread = values.std(0, ddof=1)
            axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    several = sum(found.is_baseline for found in comparisons) > 1  # the colours of their curves tell them apart
    for position, found in enumerate(comparisons):
        target = found.scores[-1].mean
        if found.is_baseline and target is not None:
            colour = COLOURS[position % len(COLOURS)] if several else palette.GREY
            axes.axhline(target, color=colour, linestyle="--", linewidth=1, label=f"best of {found.variant}")
    if floor is not None:
        axes.axhline(floor, color=palette.GREY, linestyle=":", linewidth=1, label="real against real")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(study.metric)
    axes.set_title(study.name)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _on_common_steps(runs: list[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate the runs at all steps between the latest start and the earliest end."""
    start = max(points[0].step for points in runs)
    end = min(points[-1].step for points in runs)
    steps = np.unique([point.step for points in runs for point in points if start <= point.step <= end])
    values = [np.interp(steps, [p.step for p in points], [p.value for p in points]) for points in runs]
    return steps, np.array(values)
