"""What the pictures share: line styles, densities, ticks."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mn_lightning.plots import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (palette.BLUE, palette.ORANGE, palette.GREEN, palette.PURPLE, palette.SKY_BLUE)
"""Colours of components, modes and layers. Black is for the whole, and vermilion for the reference."""
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

WIDTH = 5.6
"""Width of every picture in inches. Text of 9 points is then 9 pixels high if the picture is shown 400 pixels wide."""
PRINT: dict[str, Any] = {"fontsize": 9}
SMALL: dict[str, Any] = {"fontsize": 8}
LETTERS_IN_A_LINE = 60


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line with this index, from 0; the first 45 are different."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def title_above(figure: "Figure", title: str) -> None:
    """Write ``title`` above the picture; a long one, such as the name of a deep layer, on several lines."""
    if title:
        figure.suptitle("\n".join(textwrap.wrap(title, LETTERS_IN_A_LINE)), fontsize=10)


def densities(x: np.ndarray, weights: np.ndarray, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return λ_k N(x; μ_k, σ²_k) of K components in one dimension, ``(K, len(x))``."""
    variances = variances[:, None]
    exponent = -((x - means[:, None]) ** 2) / (2 * variances)
    return np.asarray(weights[:, None] * np.exp(exponent) / np.sqrt(2 * np.pi * variances))


def as_numpy(values: Tensor) -> np.ndarray:
    """Return the values as float64 on the CPU."""
    return np.asarray(values.detach().double().cpu())


def few_ticks(axes: "Axes", steps: int = 3) -> None:
    """Label few ticks, for small panels: at most ``steps`` equal steps along x."""
    axes.tick_params(labelsize=8, length=2)
    axes.locator_params(axis="x", nbins=steps, steps=[1, 2, 3, 4, 5, 6, 8, 10])
    axes.locator_params(axis="y", nbins=4)
