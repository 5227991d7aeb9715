"""Draw the images that a layer puts together, Figure 2 of Deecke et al."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mn_lightning.plots._style import SMALL, WIDTH, as_numpy, line_style, title_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = 12
_IN_A_LINE = 6
_COLUMN, _LINE, _HEADING = 1.1, 1.3, 0.45
"""Width of a column, height of a row of images, and height of the text above it, in units of an image."""


def plot_posteriors(
    images: Tensor, posteriors: Tensor, what: str = "mode", maps: Tensor | None = None, title: str = ""
) -> "Figure":
    """Show the images with the highest gates of a ModeNorm, or the highest posteriors of a MixtureNorm.

    Args:
        images: ``(N, C, H, W)`` in any range. If C is neither 1 nor 3, the mean over channels is shown.
        posteriors: ``(N, K)``: :func:`~mn_lightning.analysis.gates.gates`, or the means of
            :func:`~mn_lightning.analysis.mixtures.posteriors` over an image's positions.
        what: ``"mode"`` or ``"component"``.
        maps: means of posteriors over images, ``(K, h, w)``. They are drawn before the images, and the text then speaks
            of positions: a component of a mixture consists of positions in images, not of whole images.
        title: text above the picture, such as the layer's name.

    Returns:
        A figure with up to 12 images for each mode or component, the highest posterior first. The posterior stands
        above each image.

    Raises:
        ValueError: there are no images, their number differs from that of the posteriors, or the maps are of another
            number of components.

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
    lines = -(-count // _IN_A_LINE)
    first = 0 if maps is None else 1 + (lines > 1)  # the map is as high as the images beside it
    columns, block = first + min(count, _IN_A_LINE), _HEADING + _LINE * lines
    columns = max(columns, _IN_A_LINE)
    inches = WIDTH / (_COLUMN * columns)
    figure = Figure(figsize=(WIDTH, inches * block * components + 0.35), layout="constrained")
    axes = figure.add_subplot()
    largest = values.argmax(1)
    for k in range(components):
        top = -block * k
        share, highest = values[:, k].mean(), (largest == k).mean()
        value = "gate" if what == "mode" else "posterior"
        mean = f"mean {value} {share:.1%}" + (" over positions" if maps is not None else "")
        text = f"{what} {k + 1}: {mean}, highest in {highest:.1%} of images"
        axes.plot([0, _COLUMN * columns - 0.1], [top - 0.12] * 2, linewidth=2.5, color=line_style(k)["color"])
        axes.text(0, top - 0.06, text, va="bottom", **SMALL)
        top -= _HEADING
        if maps is not None:
            side = _COLUMN * (first - 1) + 1
            axes.text(side / 2, top + 0.03, "where", ha="center", va="bottom", **SMALL)
            _show(axes, as_numpy(maps[k]), 0, top, side, "cividis")
        for place, index in enumerate(np.argsort(-values[:, k], kind="stable")[:count]):
            left = _COLUMN * (first + place % _IN_A_LINE)
            above = top - _LINE * (place // _IN_A_LINE)
            _show(axes, pictures[index], left, above, 1, "gray")
            axes.text(left + 0.5, above + 0.03, f"{values[index, k]:.2f}", ha="center", va="bottom", **SMALL)
    # One panel for all images: a layout of hundreds of panels would take a minute.
    axes.set_axis_off()
    axes.set_xlim(0, _COLUMN * columns)
    axes.set_ylim(-block * components, 0.3)
    title_above(figure, title)
    return figure


def plot_claims(
    images: Tensor, claims: Tensor, what: str = "mode", places: Tensor | None = None, title: str = ""
) -> "Figure":
    """Call :func:`plot_posteriors` by its earlier name, with the earlier names of its arguments.

    Args:
        images: as in the new function.
        claims: now ``posteriors``.
        what: as in the new function.
        places: now ``maps``.
        title: as in the new function.

    Returns:
        The same figure.

    Raises:
        ValueError: as there.

    Examples:
        >>> import torch
        >>> figure = plot_claims(torch.rand(20, 3, 8, 8), claims=torch.rand(20, 2).softmax(1))
    """
    return plot_posteriors(images, claims, what, places, title)


def _show(axes: "Axes", picture: np.ndarray, left: float, top: float, side: float, colours: str) -> None:
    extent = (left, left + side, top - side, top)
    axes.imshow(picture, extent=extent, cmap=colours, vmin=0, vmax=1, interpolation="nearest")


def _displayable(images: np.ndarray) -> np.ndarray:
    """Scale images to [0, 1] together, and move channels to the last dimension."""
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdims=True)
    low, high = images.min(), images.max()
    return np.moveaxis((images - low) / (high - low or 1), 1, -1)
