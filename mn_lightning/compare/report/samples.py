"""Draw samples of a study's generators, Figure 8 of Kalayeh & Shah."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mn_lightning.compare.report.results import best, curve, first_to_reach
from mn_lightning.compare.runs.best import SAMPLES
from mn_lightning.compare.runs.run import Run
from mn_lightning.compare.study.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SEEDS = 2
"""Rows of the picture, so that it fits a screen."""


def plot_samples(study: Study, runs: Sequence[Run]) -> "Figure | None":
    """Draw the samples of each run's best evaluation: a column for each variant, a row for each seed.

    Args:
        study: gives the metric and the order of variants and seeds; the first two seeds are drawn.
        runs: those that have finished.

    Returns:
        None if no run has samples.
    """
    drawn = [run for run in runs if (run.folder / SAMPLES).exists()]
    if not drawn:
        return None
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    variants = [name for name in study.variants if any(run.variant == name for run in drawn)]
    seeds = [seed for seed in study.seeds if any(run.seed == seed for run in drawn)][:MAX_SEEDS]
    figure = Figure(figsize=(3.2 * len(variants), 3.5 * len(seeds)), layout="constrained")
    panels = figure.subplots(len(seeds), len(variants), squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for run in drawn:
        if run.seed in seeds:
            panel = panels[seeds.index(run.seed)][variants.index(run.variant)]
            panel.imshow(imread(run.folder / SAMPLES))
            panel.set_title(_title(study, run), fontsize="small")
    return figure


def _title(study: Study, run: Run) -> str:
    points = curve(run.rows(), study.metric)
    value = best(points, study.mode)
    point = None if value is None else first_to_reach(points, value, study.mode)
    reached = "" if point is None else f"\n{study.metric} {point.value:.4g} at step {point.step:.0f}"
    return f"{run.label}{reached}"
