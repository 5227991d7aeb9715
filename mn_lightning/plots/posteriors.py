"""The images that a layer puts together, Figure 2 of Deecke et al."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mn_lightning.plots._style import as_numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 12
_COLUMN, _ROW, _LABEL = 1.1, 1.35, 2.2
"""Widths and height in units of an image's."""


def plot_posteriors(
    images: Tensor, posteriors: Tensor, what: str = "mode", maps: Tensor | None = None, title: str = ""
) -> "Figure":
    """Show the images with the highest gates of a ModeNorm, or the highest posteriors of a MixtureNorm.

    A row for each mode or component.

    Args:
        images: ``(N, 1 or 3, H, W)`` in any range; with another number of channels, their mean is shown.
        posteriors: ``(N, K)``: :func:`~mn_lightning.analysis.gates.gates`, or the means of
            :func:`~mn_lightning.analysis.mixtures.posteriors` over an image's positions.
        what: ``"mode"`` or ``"component"``.
        maps: means of posteriors over images, ``(K, h, w)``, drawn before the images: a component can sort positions
            rather than images.
        title: above all, such as the layer's name.

    Returns:
        A figure with a row for each mode or component: up to 12 images, the highest posterior first, and the posterior
        above each.

    Raises:
        ValueError: there are no images, not as many as posteriors, or maps of another number of components.

    Examples:
        >>> import torch
        >>> from mn_lightning import ModeNorm
        >>> from mn_lightning.analysis.gates import gates
        >>> images, activations = torch.rand(20, 3, 8, 8), torch.randn(20, 16, 4, 4)
        >>> figure = plot_posteriors(images, gates(activations, ModeNorm(16, n_components=2)))
    """
    from matplotlib.figure import Figure

    if images.dim() != 4 or posteriors.dim() != 2 or len(images) != len(posteriors) or len(images) == 0:
        raise ValueError(
            f"plot_posteriors got images {tuple(images.shape)} and posteriors {tuple(posteriors.shape)}; "
            "it takes (N, C, H, W) and (N, K) with N > 0"
        )
    if maps is not None and (maps.dim() != 3 or len(maps) != posteriors.shape[1]):
        raise ValueError(
            f"plot_posteriors got maps {tuple(maps.shape)}; it takes (K, h, w) with K = {posteriors.shape[1]}"
        )
    count, components = min(IMAGES, len(images)), posteriors.shape[1]
    values = as_numpy(posteriors)
    pictures = _displayable(as_numpy(images))
    figure = Figure(figsize=(13, 1.1 * components + 0.6), layout="constrained")
    axes = figure.add_subplot()
    largest = values.argmax(1)
    for k in range(components):
        top = -_ROW * k
        order = np.argsort(-values[:, k], kind="stable")[:count]
        tiles = [(pictures[index], "gray", f"{values[index, k]:.3f}") for index in order]
        if maps is not None:
            tiles.insert(0, (as_numpy(maps[k]), "cividis", "where"))
        for column, (tile, colours, text) in enumerate(tiles):
            left = _COLUMN * column
            extent = (left, left + 1, top - 1, top)
            axes.imshow(tile, extent=extent, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
            axes.text(left + 0.5, top + 0.04, text, ha="center", va="bottom", fontsize="x-small")
        value = "gate" if what == "mode" else "posterior"
        means = f"mean {value} {values[:, k].mean():.1%}\nlargest in {(largest == k).mean():.1%}"
        axes.text(-0.15, top - 0.5, f"{what} {k + 1}\n{means}", ha="right", va="center", fontsize="small")
    # One panel for all: a layout of some hundred panels would take a minute.
    axes.set_axis_off()
    axes.set_xlim(-_LABEL, _COLUMN * (IMAGES + (maps is not None)))
    axes.set_ylim(-_ROW * components, 0.3)
    if title:
        figure.suptitle(title)
    return figure


def plot_claims(
    images: Tensor, claims: Tensor, what: str = "mode", places: Tensor | None = None, title: str = ""
) -> "Figure":
    """Call :func:`plot_posteriors` by its earlier name, with the earlier names of its arguments.

    Args:
        images: as there.
        claims: what is ``posteriors`` there.
        what: as there.
        places: what is ``maps`` there.
        title: as there.

    Returns:
        The same figure.

    Raises:
        ValueError: as there.

    Examples:
        >>> import torch
        >>> figure = plot_claims(torch.rand(20, 3, 8, 8), claims=torch.rand(20, 2).softmax(1))
    """
    return plot_posteriors(images, claims, what, places, title)


def _displayable(images: np.ndarray) -> np.ndarray:
    """Bring images into [0, 1] together, and channels last."""
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdims=True)
    low, high = images.min(), images.max()
    return np.moveaxis((images - low) / (high - low or 1), 1, -1)
