"""What the pictures have in common: line styles, densities, ticks."""

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mn_lightning.plots import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (palette.BLUE, palette.ORANGE, palette.GREEN, palette.PURPLE, palette.SKY_BLUE)
"""Of components, modes and layers; black is for the whole, and vermilion for the reference."""
DASHES: tuple[Any, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (9, 2)),
    (0, (1, 3)),
    (0, (6, 2, 1, 2, 1, 2)),
    (0, (9, 2, 3, 2)),
    (0, (3, 4)),
)
WHOLE = palette.BLACK
REFERENCE: dict[str, Any] = {"color": palette.VERMILION, "linestyle": ":", "linewidth": 2.0}
DATA = palette.LIGHT_GREY


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line of this index, from 0; the first 45 differ."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def densities(x: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return λ_k N(x; μ_k, σ²_k) of K components in one dimension, ``(K, len(x))``."""
    variances = variances[:, None]
    exponent = -((x - means[:, None]) ** 2) / (2 * variances)
    return np.asarray(weights[:, None] * np.exp(exponent) / np.sqrt(2 * np.pi * variances))


def as_numpy(values: Tensor) -> np.ndarray:
    """Return float64 on the CPU."""
    return np.asarray(values.detach().double().cpu())


def few_ticks(axes: "Axes") -> None:
    """Label few ticks in small print, as small panels need."""
    axes.tick_params(labelsize="x-small", length=2)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=4)
