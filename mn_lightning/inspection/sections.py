"""The page's section about one layer: its numbers, and pictures with captions that say how to read them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mn_lightning import plots
from mn_lightning.analysis.distribution import flat_rows, layer_mixture, log_likelihood_gains, typical_channels
from mn_lightning.analysis.history import History
from mn_lightning.analysis.mixtures import posteriors
from mn_lightning.inspection.numbers import layer_numbers, shape_numbers
from mn_lightning.inspection.page import Picture, Section
from mn_lightning.inspection.recorder import Recorded
from mn_lightning.layers import MixtureNorm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 180
"""Pictures are 5.6 inches wide: 1,008 pixels, somewhat more than the page."""

_ACTIVATIONS = (
    "Left: the layer's input in four channels, from the one that a single Gaussian describes best to the one for "
    "which the mixture gains most. Grey bars are the data. The black line is the density that the layer assumes, the "
    "coloured lines are its {what}s, and the dotted line is the Gaussian that BatchNorm assumes. Middle and right: "
    "the same values after each normalization. Skewness (skew) and excess kurtosis (kurt) are 0 for a normal "
    "distribution. BatchNorm only shifts and scales, so it changes neither. Where a bar is cut, a number says how many "
    "times as high as the panel it is. {misfit}"
)
_MIXTURE_MISFIT = (
    "Where the black line and the bars differ, there are two usual reasons. The mixture was fitted to the last "
    "batches of the training: if the weights still changed fast, the data have moved away from it. And one mixture is "
    "fitted to all channels together, so its {K} components cannot follow the details of each."
)
_EVOLUTION = (
    "Top: the weights of the {what}s, each with its number and colour. Below: their densities in a few channels; the "
    "black line is the whole mixture. Each row has one axis, so one can see {what}s become narrower or move.{order}"
)
_ORDER = (
    " A refit keeps the order of the earlier components by the distances of their means, so a colour is the same "
    "component at all times as far as one can say."
)
_POSTERIORS = (
    "For each {what}: the images with the highest {value}, the highest first, with the {value} above each{mean}. The "
    "line above them has the mean {value}, and the share of images in which this {what} has the highest of all. Where "
    "the numbers of a {what} hardly differ, the {what}s do not sort the images, whatever the images look like."
)
_MEAN = (
    ". A mixture sorts positions, not images: the number of an image is the mean over its positions. 'where' shows the "
    "posterior at each position of the image, as a mean over images, from dark (0) to yellow (1)"
)
_COMPONENTS = (
    "How many components are in use, for each layer, from dark (the first) to light (the last). It is the mean over "
    "the batches of each epoch, or, where that was not recorded, the number in the stored mixture. A component that "
    "holds less than the layer's min_weight (1% by default) of the data is dropped. Lines of equal height are drawn "
    "beside each other."
)
_NO_HISTORY = (
    "The checkpoint has no record of this layer's training. Add MixtureMonitor to the trainer's callbacks to see how "
    "it got here."
)
_OWN_MIXTURES = "Every channel has a mixture of its own, so there are no posteriors of whole images."
_NO_IMAGES = "No images are shown: the samples are none, or the layer's input has not one row for each of them."


def overview_sections(folder: Path, histories: Mapping[str, History]) -> list[Section]:
    """Draw the components in use of all layers for which a training recorded them.

    Args:
        folder: the folder to write the picture to.
        histories: by layer's name.
    """
    mixtures = {name: history for name, history in histories.items() if "components" in history.values}
    if not mixtures:
        return []
    file = _save(plots.plot_components(mixtures), folder, "components.png")
    return [Section("Components in use", [], [Picture(file, "Components in use over time", _COMPONENTS)], [])]


def layer_section(
    folder: Path,
    name: str,
    data: Recorded,
    images: Tensor,
    history: History | None,
    channels: Sequence[int] | None,
) -> Section:
    """Draw one layer.

    Args:
        folder: the folder to write the pictures to.
        name: name of the layer.
        data: the layer and its recorded input.
        images: the samples, ``(N, C, H, W)``, or empty.
        history: of its training, if that was recorded.
        channels: channels to draw; None for four typical ones.
    """
    layer, stem = data.layer, re.sub(r"[^\w.-]", "_", name)
    notes, pictures = [], []
    is_mixture = isinstance(layer, MixtureNorm)
    channels = _typical(data, history) if channels is None else channels
    what, value, mean = ("component", "posterior", _MEAN) if is_mixture else ("mode", "gate", "")
    figure = plots.plot_activations(data.input, layer, channels, name)
    caption = _ACTIVATIONS.format(what=what, misfit=_MIXTURE_MISFIT.format(K=layer.n_components) if is_mixture else "")
    pictures.append(Picture(_save(figure, folder, f"{stem}-activations.png"), f"Activations of {name}", caption))
    if history is None or not history.snapshots:
        notes.append(_NO_HISTORY)
    else:
        recorded = [channel for channel in channels if channel in history.channels]
        evolution = _EVOLUTION.format(what=what, order=_ORDER if is_mixture else "")
        figure = plots.plot_evolution(history, recorded or None, name, what)
        pictures.append(Picture(_save(figure, folder, f"{stem}-evolution.png"), f"Evolution of {name}", evolution))
    if len(data.posteriors) and len(images):
        figure = plots.plot_posteriors(images, data.posteriors, what, _maps(data), name)
        caption = _POSTERIORS.format(what=what, value=value, mean=mean)
        file = _save(figure, folder, f"{stem}-posteriors.png")
        pictures.append(Picture(file, f"Images that {name} puts together", caption))
    else:
        notes.append(_OWN_MIXTURES if is_mixture and layer.granularity == "channel" else _NO_IMAGES)
    return Section(name, [*layer_numbers(data), *shape_numbers(data)], pictures, notes)


def _typical(data: Recorded, history: History | None) -> list[int]:
    """Choose the same channels for all pictures, and therefore from those whose history is known."""
    known = list(range(data.layer.num_features)) if history is None or not history.channels else history.channels
    gains = log_likelihood_gains(flat_rows(data.input), layer_mixture(data.input, data.layer), data.layer.eps)
    return [known[i] for i in typical_channels(gains[known])]


def _maps(data: Recorded) -> torch.Tensor | None:
    """Return where in an image each component of a mixture is found, ``(K, h, w)``."""
    if not isinstance(data.layer, MixtureNorm) or data.input.dim() != 4 or data.input.shape[2:].numel() == 1:
        return None
    return posteriors(data.input, data.layer.mixture, data.layer.eps).mean(0)


def _save(figure: "Figure", folder: Path, file: str) -> str:
    figure.savefig(folder / file, dpi=DPI)
    return file
