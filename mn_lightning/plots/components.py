"""Draw how many components stay in use, Figure 6 of Kalayeh & Shah."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mn_lightning.analysis.history import History
from mn_lightning.plots._style import DASHES, PRINT, SMALL, WIDTH, few_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = "components"
IN_TRAINING = "training_components"
FEW = 8
LETTERS_IN_A_LEGEND = 84
"""Letters in one line below the picture."""
COLOURS = "cividis"
"""Colours from the first layer to the last. The colours of the other pictures stand for components."""
SHIFT = 0.05
"""Distance between lines of equal numbers, which would hide each other; at most MAX_SHIFT in all."""
MAX_SHIFT = 0.6


def plot_components(histories: Mapping[str, History]) -> "Figure":
    """Draw how many components each mixture used in training or, if that was not recorded, after each epoch.

    Args:
        histories: by layer's name, from MixtureMonitor; layers without either number are left out.

    Returns:
        A figure with a line for each layer, dark for the first and light for the last. Lines of several layers are
        shifted a little, by up to 0.3.

    Raises:
        ValueError: no layer has such numbers.

    Examples:
        >>> history = History()
        >>> for epoch, components in enumerate([3, 3, 2], start=1):
        ...     history.record(epoch, 100 * epoch, {"components": components}, mixture=None)
        >>> figure = plot_components({"conv3.norm": history})
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    numbers = {name: _number(history) for name, history in histories.items()}
    drawn = {name: history for name, history in histories.items() if numbers[name] in history.values}
    if not drawn:
        raise ValueError("no history of a MixtureNorm was given; train with MixtureMonitor, for one epoch at least")
    columns = max(1, min(3, LETTERS_IN_A_LEGEND // (max(map(len, drawn)) + 12)))
    legend_lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(WIDTH, 2.6 + 0.18 * legend_lines), layout="constrained")
    axes = figure.add_subplot()
    colours = [tuple(colour) for colour in colormaps[COLOURS](np.linspace(0, 0.9, len(drawn)))]
    reach = min(SHIFT * (len(drawn) - 1), MAX_SHIFT) / 2
    shifts = np.linspace(reach, -reach, len(drawn))
    for index, (name, history) in enumerate(drawn.items()):
        values = np.asarray(history.values[numbers[name]]) + shifts[index]
        # Points would hide the dashes of many lines, but a line of one epoch is only a point.
        marker = "o" if len(drawn) <= FEW or len(history.steps) == 1 else ""
        width = 1.5 if len(drawn) <= FEW else 1.0
        style = {"color": colours[index], "linestyle": DASHES[index % len(DASHES)]}
        axes.plot(history.steps, values, label=name, marker=marker, markersize=3, linewidth=width, **style)
    most = max(np.nanmax(history.values[numbers[name]]) for name, history in drawn.items())
    axes.set_ylim(0, most + 0.5)
    axes.set_xlim(left=0)
    few_ticks(axes)
    axes.set_yticks(range(0, round(most) + 1, max(1, round(most) // 10)))
    axes.grid(alpha=0.3)
    axes.set_xlabel("optimizer steps", **PRINT)
    axes.set_ylabel("components in use", **PRINT)
    figure.legend(loc="outside lower center", frameon=False, ncols=columns, handlelength=3, **SMALL)
    return figure


def _number(history: History) -> str:
    return IN_TRAINING if IN_TRAINING in history.values else NUMBER
