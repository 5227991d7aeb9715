"""Draw activations before and after their normalization, Figure 1 of Kalayeh & Shah."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mn_lightning.analysis.distribution import (
    flat_rows,
    layer_mixture,
    log_likelihood_gains,
    normalized,
    shape,
    typical_channels,
)
from mn_lightning.layers import MixtureNorm, ModeNorm
from mn_lightning.plots._style import (
    DATA,
    PRINT,
    REFERENCE,
    SMALL,
    WHOLE,
    WIDTH,
    as_numpy,
    densities,
    few_ticks,
    line_style,
    title_above,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 60
TAIL = 0.001
"""Share of the values that are left out at each end of a panel: one far outlier would press all others into one bin."""
TALLEST = 2.5
"""Height of a panel in which a bar is cut, in units of the highest density that is drawn over the bars."""
SHOWN_IN_LEGEND = 12
LEGEND_COLUMNS = 3


def plot_activations(
    input: Tensor, layer: MixtureNorm | ModeNorm, channels: Sequence[int] | None = None, title: str = ""
) -> "Figure":
    """Draw histograms of a layer's input, of its normalization by BatchNorm, and of its normalization by the layer.

    There is a row for each channel. On the left is the input. Lines over it show the mixture that the layer assumes,
    its components, and the Gaussian that BatchNorm assumes. In the middle and on the right are the values after each
    normalization, without the affine map, and a Gaussian of the same mean and variance. The outermost 0.1% at each side
    are not shown. If a bar is cut, a number says how many times as high as the panel it is.

    Args:
        input: the layer's input, ``(N, C, *)``.
        layer: in the state in which evaluation uses it.
        channels: the channels to draw; by default four, from the one that a single Gaussian describes best to the one
            for which the mixture improves most on it.
        title: text above the picture, such as the layer's name.

    Returns:
        A figure with a row of three panels for each channel.

    Raises:
        ValueError: a channel is given that the layer does not have, or no channel at all.

    Examples:
        >>> layer = MixtureNorm(8, n_components=2)
        >>> x = torch.randn(16, 8, 4, 4)
        >>> _ = layer(x), layer.refit()
        >>> figure = plot_activations(x, layer, channels=[0, 5])
        >>> figure.savefig("activations.png")
    """
    from matplotlib.figure import Figure

    rows = flat_rows(input)
    mixture = layer_mixture(input, layer)
    if channels is None:
        channels = typical_channels(log_likelihood_gains(rows, mixture, layer.eps))
    check_channels_exist(channels, rows.shape[1])
    before = as_numpy(rows[:, list(channels)])
    batch = (before - before.mean(0)) / np.sqrt(before.var(0) + layer.eps)
    after = as_numpy(flat_rows(normalized(input, layer))[:, list(channels)])
    weights, means, variances = (as_numpy(part) for part in mixture)
    part, whole = ("component", "mixture") if isinstance(layer, MixtureNorm) else ("mode", "all modes")

    legend_lines = -(-(min(len(weights), SHOWN_IN_LEGEND) + 3) // LEGEND_COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.45 * len(channels) + 0.2 * legend_lines + 1.0), layout="constrained")
    panels = figure.subplots(len(channels), 3, squeeze=False)
    headings = ["input", "after BatchNorm", f"after {type(layer).__name__}"]
    for row, (channel, (left, middle, right)) in enumerate(zip(channels, panels, strict=True)):
        x = _histogram(left, before[:, row])
        weight = weights[:, channel] if weights.ndim == 2 else weights
        parts = densities(x, weight, means[:, channel], variances[:, channel] + layer.eps)
        for k in np.flatnonzero(weight > 0):
            label = f"{part} {k + 1}" if k < SHOWN_IN_LEGEND else "_"  # matplotlib hides names that start with _
            left.plot(x, parts[k], linewidth=1.3, label=label, **line_style(int(k)))
        left.plot(x, parts.sum(0), color=WHOLE, linewidth=1.6, label=f"{whole} (their sum)")
        left.plot(x, _gaussian(x, before[:, row]), label="Gaussian (BatchNorm)", **REFERENCE)
        left.set_ylabel(f"channel {channel}", **PRINT)
        for panel, values in ((middle, batch[:, row]), (right, after[:, row])):
            x = _histogram(panel, values)
            panel.plot(x, _gaussian(x, values), **REFERENCE)
        for panel in panels[row]:
            _limit_height(panel)
        for panel, heading, values in zip(
            panels[row], headings, (before[:, row], batch[:, row], after[:, row]), strict=True
        ):
            found = shape(torch.from_numpy(values).unsqueeze(1))
            text = f"skew {found.skewness[0]:.2f}, kurt {found.kurtosis[0]:.2f}"
            panel.set_title(f"{heading}\n{text}" if row == 0 else text, linespacing=1.4, **SMALL)
    title_above(figure, title)
    _add_legend(figure, panels)
    return figure


def check_channels_exist(channels: Sequence[int], count: int) -> None:
    """Refuse channels that a layer of ``count`` channels does not have.

    Raises:
        ValueError: there is such a channel, or no channel at all.
    """
    if not channels or not all(0 <= channel < count for channel in channels):
        raise ValueError(f"channels got {list(channels)}; the layer has 0 to {count - 1}, give one or more of them")


def _histogram(axes: "Axes", values: np.ndarray) -> np.ndarray:
    """Draw the histogram of ``values``, and return the points at which to draw densities over it."""
    low, high = np.quantile(values, (TAIL, 1 - TAIL))
    margin = 0.05 * (high - low) or 0.5  # all values may be equal
    low, high = low - margin, high + margin
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    # A share of all values, including those beyond the panel, because the densities over it describe all of them.
    axes.stairs(counts / (len(values) * np.diff(edges)), edges, fill=True, color=DATA, label="activations")
    axes.set_xlim(low, high)
    few_ticks(axes)
    axes.set_yticks([])  # its shape says everything about a density
    return np.linspace(low, high, 400)


def _limit_height(axes: "Axes") -> None:
    """Keep densities readable beside a spike, such as that of a constant background; write how much of it is cut."""
    heights, edges, _ = axes.patches[0].get_data()  # type: ignore[attr-defined]
    # All densities of constant activations may lie outside the panel.
    curves = max(float(np.max(line.get_ydata())) for line in axes.lines) or float(heights.max())
    whole = 1.1 * float(heights.max())
    # A bar that is hardly higher than that is shown whole: "cut at 1.0 times its height" says nothing.
    top = max(1.1 * curves, whole if whole < 1.2 * TALLEST * curves else TALLEST * curves)
    axes.set_ylim(0, top)
    highest = int(heights.argmax())
    if heights[highest] > top:
        middle = (edges[highest] + edges[highest + 1]) / 2
        left_half = middle < sum(axes.get_xlim()) / 2
        axes.annotate(
            f" ▲ {heights[highest] / top:.1f}x" if left_half else f"{heights[highest] / top:.1f}x ▲ ",
            (middle, 0.97 * top),
            ha="left" if left_half else "right",
            va="top",
            **SMALL,
        )


def _gaussian(x: np.ndarray, values: np.ndarray) -> Any:
    floor = np.finfo(float).tiny  # a constant channel has variance 0
    mean, variance = values.mean(keepdims=True), values.var(keepdims=True)
    return densities(x, np.ones(1), mean, np.maximum(variance, floor)).sum(0)


def _add_legend(figure: "Figure", panels: Any) -> None:
    entries = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False, **SMALL
    )
