"""Draw a mixture at several moments of the training, Figure 5 of Kalayeh & Shah."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mn_lightning.analysis.history import History, Snapshot, spread_evenly
from mn_lightning.kernels.types import Mixture
from mn_lightning.plots._style import (
    DATA,
    PRINT,
    WHOLE,
    WIDTH,
    as_numpy,
    densities,
    few_ticks,
    line_style,
    title_above,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
CHANNELS = 4


def plot_evolution(
    history: History, channels: Sequence[int] | None = None, title: str = "", what: str = "component"
) -> "Figure":
    """Draw a layer's mixture at about 20, 40, 60, 80 and 100% of the training: weights, and densities by channel.

    A component has the number and colour that it has in the layer, as in the other pictures. Each refit keeps the order
    of the components from the refit before, by the distances between their means. So a colour is the same component at
    all moments, as far as components can be followed. (The paper numbers them by weight at each moment.)

    Args:
        history: from MixtureMonitor, with at least one mixture.
        channels: the channels to draw, out of those that ``history`` holds; by default four of them, evenly spread.
        title: text above the picture, such as the layer's name.
        what: the word for one of them: ``"component"``, or ``"mode"`` for the history of a ModeNorm.

    Returns:
        A figure with a column for each moment. The first row shows the weights; below is a row for each channel.

    Raises:
        ValueError: ``history`` holds no mixture, or does not hold one of the channels.

    Examples:
        >>> import torch
        >>> history = History()
        >>> for epoch in range(1, 6):
        ...     mixture = Mixture(torch.tensor([0.7, 0.3]), torch.randn(2, 8), torch.rand(2, 8) + 0.5)
        ...     history.record(epoch, 100 * epoch, {"components": 2}, mixture)
        >>> figure = plot_evolution(history, channels=[0, 3])
    """
    from matplotlib.figure import Figure

    if not history.snapshots:
        raise ValueError("the history holds no mixture; train with MixtureMonitor, for one epoch at least")
    if channels is None:
        channels = [history.channels[i] for i in spread_evenly(len(history.channels), CHANNELS)]
    missing = [channel for channel in channels if channel not in history.channels]
    if missing or not channels:
        kept = ", ".join(map(str, history.channels))
        raise ValueError(f"channels got {list(channels)}; the history holds {kept}, give one or more of them")
    columns = [history.channels.index(channel) for channel in channels]
    moments = at_fractions(history.snapshots)

    figure = Figure(figsize=(WIDTH, 1.05 * (len(channels) + 1) + 0.9), layout="constrained")
    panels = figure.subplots(len(channels) + 1, len(moments), squeeze=False)
    mixtures = [_by_channel(snapshot.mixture) for snapshot in moments]
    end = moments[-1].step
    own_mixtures = moments[0].mixture.weights.dim() == 2
    for panel, snapshot, (weights, _, _) in zip(panels[0], moments, mixtures, strict=True):
        share = f"\n{snapshot.step / end:.0%}" if end else ""
        panel.set_title(f"epoch {snapshot.epoch}{share}", **PRINT)
        # The components of one channel's mixture are unrelated to those of another channel's.
        heights = np.sort(weights, axis=0)[::-1].mean(1) if own_mixtures else weights[:, 0]
        for k, height in enumerate(heights):
            panel.bar(k + 1, height, color=DATA if own_mixtures else line_style(k)["color"])
        panel.set_ylim(0, 1)
        panel.set_xlim(0.4, len(heights) + 0.6)
        few_ticks(panel)
        panel.set_yticks([0, 1])
        panel.set_xticks([i + 1 for i in spread_evenly(len(heights), 5)])
    panels[0, 0].set_ylabel("weight", **PRINT)
    for row, (channel, column) in enumerate(zip(channels, columns, strict=True), start=1):
        ranges = [_range(*(part[:, column] for part in parts)) for parts in mixtures]
        x = np.linspace(min(low for low, _ in ranges), max(high for _, high in ranges), 400)
        for panel, parts in zip(panels[row], mixtures, strict=True):
            curves = densities(x, *(part[:, column] for part in parts))
            for used in np.flatnonzero(parts[0][:, column] > 0):
                panel.plot(x, curves[used], linewidth=1.2, **line_style(int(used)))
            panel.plot(x, curves.sum(0), color=WHOLE, linewidth=0.9, zorder=1)
            panel.set_xlim(x[0], x[-1])
            panel.set_ylim(bottom=0)
            few_ticks(panel, 2)
            panel.set_yticks([])
        panels[row, 0].set_ylabel(f"channel {channel}", **PRINT)
    panels[0, len(moments) // 2].set_xlabel(
        "heaviest to lightest, mean over channels" if own_mixtures else what, **PRINT
    )
    panels[-1, len(moments) // 2].set_xlabel("activation", **PRINT)
    title_above(figure, title)
    return figure


def at_fractions(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """Choose the snapshots nearest to each fifth of the training, which ends with the last snapshot; each only once."""
    end = snapshots[-1].step
    nearest = [min(snapshots, key=lambda snapshot: abs(snapshot.step - share * end)) for share in FRACTIONS]
    return list({snapshot.step: snapshot for snapshot in nearest}.values())


def _by_channel(mixture: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights, means and variances, all ``(K, c)``."""
    weights, means, variances = (as_numpy(part) for part in mixture)
    weights = np.broadcast_to(weights[:, None] if weights.ndim == 1 else weights, means.shape)
    return weights, means, np.maximum(variances, 1e-12)


def _range(weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> tuple[float, float]:
    used, spread = weights > 0, 3 * np.sqrt(variances)
    return float((means - spread)[used].min()), float((means + spread)[used].max())
