"""What belongs together to a layer, Figure 2 of Deecke et al."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mn_lightning.plots._style import as_numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 12


def plot_claims(
    images: Tensor, claims: Tensor, what: str = "mode", places: Tensor | None = None, title: str = ""
) -> "Figure":
    """Show the images that each mode of a ModeNorm, or component of a MixtureNorm, claims most strongly.

    Args:
        images: ``(N, 1 or 3, H, W)`` in any range; with another number of channels, their mean is shown.
        claims: ``(N, K)``: :func:`~mn_lightning.statistics.gates`, or the means of
            :func:`~mn_lightning.statistics.posteriors` over an image's positions.
        what: ``"mode"`` or ``"component"``.
        places: means of posteriors over images, ``(K, h, w)``, drawn before the images: components can take positions
            rather than images.
        title: above all, such as the layer's name.

    Returns:
        A figure with a row of up to 12 images for each mode, the strongest claim first, and the claim above each.

    Raises:
        ValueError: no images, or not as many as claims, or places of another number of components.
    """
    from matplotlib.figure import Figure

    if images.dim() != 4 or claims.dim() != 2 or len(images) != len(claims) or len(images) == 0:
        raise ValueError(
            f"plot_claims got images {tuple(images.shape)} and claims {tuple(claims.shape)}; "
            "it takes (N, C, H, W) and (N, K) with N > 0"
        )
    if places is not None and (places.dim() != 3 or len(places) != claims.shape[1]):
        raise ValueError(f"plot_claims got places {tuple(places.shape)}; it takes (K, h, w) with K = {claims.shape[1]}")
    count, modes = min(IMAGES, len(images)), claims.shape[1]
    values = as_numpy(claims)
    pictures = _displayable(as_numpy(images))
    maps = 0 if places is None else 1
    figure = Figure(figsize=(0.85 * (count + maps) + 2, 1.05 * modes + 0.7), layout="constrained")
    panels = figure.subplots(modes, count + maps, squeeze=False)
    largest = values.argmax(1)
    for k in range(modes):
        if places is not None:
            panels[k, 0].imshow(as_numpy(places[k]), cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
            panels[k, 0].set_title("where", fontsize="x-small", pad=2)
        order = np.argsort(-values[:, k], kind="stable")[:count]
        for panel, index in zip(panels[k, maps:], order, strict=True):
            panel.imshow(pictures[index], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(f"{values[index, k]:.3f}", fontsize="x-small", pad=2)
        panels[k, 0].set_ylabel(
            f"{what} {k + 1}\nmean claim {values[:, k].mean():.1%}\nlargest in {(largest == k).mean():.1%}",
            rotation=0,
            ha="right",
            va="center",
            fontsize="small",
        )
    for panel in panels.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    if title:
        figure.suptitle(title)
    return figure


def _displayable(images: np.ndarray) -> np.ndarray:
    """Bring images into [0, 1] together, and channels last."""
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdims=True)
    low, high = images.min(), images.max()
    return np.moveaxis((images - low) / (high - low or 1), 1, -1)
