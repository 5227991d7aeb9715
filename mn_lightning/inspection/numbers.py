"""The numbers about one layer, as lines of text."""

import warnings
from typing import NamedTuple

import numpy as np

from mn_lightning.analysis.distribution import flat_rows, normalized, shape
from mn_lightning.analysis.gates import gate_statistics, gate_sums, gates
from mn_lightning.analysis.mixtures import mixture_statistics, row_statistics, row_sums
from mn_lightning.inspection.recorder import Recorded
from mn_lightning.layers import MixtureNorm

NAMES = {
    "components": "components in use",
    "entropy": "entropy of the weights (nats)",
    "smallest_weight": "smallest weight in use",
    "largest_weight": "largest weight",
    "separation": "distance between means (in units of their spread)",
    "confident": "rows (positions of images) with a posterior above 0.9",
    "log_likelihood_gain": "log-likelihood over a Gaussian's (nats per row and dimension)",
    "gate_entropy": "entropy of the gates (nats)",
}
SHARES = ("confident", "share_")


class Number(NamedTuple):
    """One line of a table."""

    name: str
    value: str


def layer_numbers(data: Recorded) -> list[Number]:
    """Return the numbers from :mod:`mn_lightning.analysis.mixtures` for the layer's input."""
    layer, input = data.layer, data.input
    if isinstance(layer, MixtureNorm):
        options = (layer.mixture, layer.eps, layer.granularity)
        found = mixture_statistics(*options) | row_statistics(row_sums(input, *options))
    else:
        # The gates of all samples if they were kept; the input was kept for the first samples only.
        found = gate_statistics(gate_sums(data.posteriors if len(data.posteriors) else gates(input, layer)))
    numbers = [Number("kind", f"{type(layer).__name__}, {layer.num_features} channels, K = {layer.n_components}")]
    return numbers + [Number(_name(key), _text(key, float(value))) for key, value in found.items()]


def shape_numbers(data: Recorded) -> list[Number]:
    """Return how the normalization changes the distributions' shape, as medians over channels."""
    name = type(data.layer).__name__
    before = shape(flat_rows(data.input))
    after = shape(flat_rows(normalized(data.input, data.layer)))
    return [
        Number("median |skewness| of the input, and after BatchNorm", _median(before.skewness)),
        Number(f"median |skewness| after {name}", _median(after.skewness)),
        Number("median |excess kurtosis| of the input, and after BatchNorm", _median(before.kurtosis)),
        Number(f"median |excess kurtosis| after {name}", _median(after.kurtosis)),
    ]


def _name(key: str) -> str:
    kind, _, mode = key.rpartition("_")
    if kind in ("gate", "share") and mode.isdigit():
        what = "mean gate" if kind == "gate" else "images with their largest gate there"
        return f"mode {int(mode) + 1}: {what}"
    return NAMES[key]


def _text(key: str, value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.1%}" if key.startswith(SHARES) else f"{value:.4g}"


def _median(values: np.ndarray) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all channels may be constant
        return f"{np.nanmedian(np.abs(values)):.2f}"
