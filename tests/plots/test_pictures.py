"""That pictures show the numbers they claim to show, and that nothing of them is cut off at any size."""

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from mn_lightning import MixtureNorm, ModeNorm
from mn_lightning.analysis.history import History
from mn_lightning.gmm import Mixture
from mn_lightning.plots import plot_activations, plot_claims, plot_components, plot_evolution, plot_posteriors
from mn_lightning.plots._style import COLOURS, line_style


def mixture_layer(channels: int, components: int = 3, granularity: Any = "layer") -> MixtureNorm:
    layer = MixtureNorm(channels, components, granularity=granularity, queue_size=1)
    layer.mixture_weights.copy_(torch.ones_like(layer.mixture_weights) / components)
    layer.mixture_means.copy_(3 * torch.randn(components, channels))
    return layer.eval()


def activations(channels: int) -> torch.Tensor:
    x = torch.randn(6, channels, 4, 4)
    return torch.where(torch.rand_like(x) < 0.3, x + 4, x)


def history(epochs: int = 5, channels: int = 5, components: int = 3, per_channel: bool = False) -> History:
    recorded = History()
    for epoch in range(1, epochs + 1):
        weights = torch.rand(components, channels) if per_channel else torch.rand(components)
        weights = weights / weights.sum(0)
        mixture = Mixture(weights, torch.randn(components, channels), torch.rand(components, channels) + 0.1)
        recorded.record(epoch, 10 * epoch, {"components": float(components - (epoch == 3))}, mixture)
    return recorded


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Everything drawn is inside the figure, panels have a size, and legends and titles do not lie on anything."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.01
    assert drawn.x1 <= width + 0.01
    assert drawn.y1 <= height + 0.01
    panels = [axes.get_window_extent(renderer) for axes in figure.axes]
    titles = [axes.title.get_window_extent(renderer) for axes in figure.axes if axes.get_title()]
    for panel in panels:
        assert panel.width > 25
        assert panel.height > 25
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(other) for other in (*panels, *titles))
    corners = np.array([box.extents for box in (*titles, *panels)])
    low, high = corners[:, None, :2], corners[:, None, 2:]
    touching = (np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1)) > 1).all(-1)
    assert not touching[: len(titles)][:, : len(titles)].sum() > len(titles)  # each overlaps with itself
    assert not touching[: len(titles), len(titles) :].any()


# --- what they show -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_densities_and_histograms(granularity: Any) -> None:
    layer, x = mixture_layer(5, granularity=granularity), activations(5)
    figure = plot_activations(x, layer, [3])
    left, middle, right = figure.axes
    lines = {line.get_label(): line for line in left.lines}
    grid = lines["component 1"].get_xdata()
    weights = layer.mixture_weights if granularity == "layer" else layer.mixture_weights[:, 3]
    total = np.zeros(len(grid))
    for k in range(3):
        normal = scipy.stats.norm(
            float(layer.mixture_means[k, 3]), float(layer.mixture_variances[k, 3] + layer.eps) ** 0.5
        )
        part = float(weights[k]) * normal.pdf(grid)
        np.testing.assert_allclose(lines[f"component {k + 1}"].get_ydata(), part, atol=1e-6)
        total += part
    np.testing.assert_allclose(lines["mixture (their sum)"].get_ydata(), total, atol=1e-6)
    values = x[:, 3].flatten().numpy()
    gaussian = scipy.stats.norm(values.mean(), values.std()).pdf(grid)
    np.testing.assert_allclose(lines["Gaussian (BatchNorm)"].get_ydata(), gaussian, atol=1e-4)
    (histogram,) = left.patches
    heights, edges, _ = histogram.get_data()
    assert (heights * np.diff(edges)).sum() == pytest.approx(1, abs=0.05)

    output = layer(x)[:, 3].detach().flatten().numpy()  # γ = 1 and β = 0
    for axes, shown in ((left, values), (middle, values), (right, output)):
        numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", axes.get_title())]
        assert numbers == pytest.approx([scipy.stats.skew(shown), scipy.stats.kurtosis(shown)], abs=0.006)
    heights, edges, _ = right.patches[0].get_data()
    expected = np.histogram(output, bins=edges)[0] / (len(output) * np.diff(edges))
    np.testing.assert_allclose(heights, expected, atol=0.2 * expected.max())
    assert right.get_xlim()[0] < np.median(output) < right.get_xlim()[1]


@pytest.mark.parametrize("spike", [0.05, 0.9])
def test_a_bar_that_is_cut_says_how_far(spike: float) -> None:
    """A channel with a constant background: 90% of it is one bar, which would press all others flat."""
    x = torch.randn(4000, 1)
    x[: round(4000 * spike)] = 0.0
    for panel in plot_activations(x, MixtureNorm(1).eval(), [0]).axes[1:2]:
        heights, _, _ = panel.patches[0].get_data()
        cut = heights.max() > panel.get_ylim()[1]
        assert cut == (spike > 0.5)
        numbers = [float(found) for text in panel.texts for found in re.findall(r"([\d.]+)x", text.get_text())]
        assert numbers == pytest.approx([heights.max() / panel.get_ylim()[1]] if cut else [], abs=0.06)


def test_an_unused_component_is_not_drawn() -> None:
    layer = MixtureNorm(2, n_components=3).eval()
    labels = [line.get_label() for line in plot_activations(torch.randn(50, 2), layer, [0]).axes[0].lines]
    assert labels == ["component 1", "mixture (their sum)", "Gaussian (BatchNorm)"]


def test_four_channels_from_the_least_to_the_most_modal() -> None:
    layer = MixtureNorm(9, n_components=2).eval()
    layer.mixture_weights.fill_(0.5)
    gaps = torch.tensor([4.0, 0, 8, 2, 1, 5, 3, 7, 6])
    layer.mixture_means.copy_(torch.stack([-gaps, gaps]))
    x = torch.randn(4000, 9) + gaps * (2 * torch.randint(2, (4000, 1)) - 1)
    drawn = [axes.get_ylabel().split("\n")[0] for axes in plot_activations(x, layer).axes if axes.get_ylabel()]
    assert drawn == [f"channel {gaps.tolist().index(gap)}" for gap in (0, 3, 5, 8)]


def test_components_at_every_fifth() -> None:
    recorded = history(20)
    figure = plot_evolution(recorded, [1, 4])
    titles = [axes.get_title() for axes in figure.axes[:5]]
    assert titles == ["epoch 4\n20%", "epoch 8\n40%", "epoch 12\n60%", "epoch 16\n80%", "epoch 20\n100%"]
    weights, means, variances = (part.double() for part in recorded.snapshots[3].mixture)
    bars, channel_4 = figure.axes[0], figure.axes[10]
    assert figure.axes[2].get_xlabel() == "component"
    assert plot_evolution(recorded, [1], what="mode").axes[2].get_xlabel() == "mode"
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(weights.tolist())
    for k, line in enumerate(channel_4.lines[:3]):
        normal = scipy.stats.norm(float(means[k, 4]), float(variances[k, 4]) ** 0.5)
        np.testing.assert_allclose(line.get_ydata(), float(weights[k]) * normal.pdf(line.get_xdata()), atol=1e-6)
    assert len({axes.get_xlim() for axes in figure.axes[5:10]}) == 1


def test_a_component_has_one_colour_in_all_pictures() -> None:
    layer = mixture_layer(5)
    left = plot_activations(activations(5), layer, [3]).axes[0]
    evolution = plot_evolution(history(), [3]).axes
    (posteriors,) = plot_posteriors(torch.rand(9, 1, 4, 4), torch.rand(9, 3), "component").axes
    for k in range(3):
        (labelled,) = [line for line in left.lines if line.get_label() == f"component {k + 1}"]
        assert labelled.get_color() == COLOURS[k]
        assert posteriors.lines[k].get_color() == COLOURS[k]
        for bars, densities in zip(evolution[:5], evolution[5:], strict=True):
            assert bars.patches[k].get_facecolor()[:3] == pytest.approx(to_rgb(COLOURS[k]))
            assert densities.lines[k].get_color() == COLOURS[k]


def test_no_layer_has_the_colour_of_a_component() -> None:
    lines = plot_components({str(i): history() for i in range(30)}).axes[0].lines
    assert not {to_hex(line.get_color()).upper() for line in lines} & {colour.upper() for colour in COLOURS}


def test_weights_of_channels_with_mixtures_of_their_own() -> None:
    recorded = history(per_channel=True)
    weights = recorded.snapshots[0].mixture.weights.double().numpy()
    bars = plot_evolution(recorded, [1]).axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx(np.sort(weights, axis=0)[::-1].mean(1))


@pytest.mark.parametrize("picture", ["activations", "evolution", "components", "posteriors"])
def test_print_can_be_read_where_a_picture_is_400_pixels_wide(picture: str) -> None:
    """No letter is smaller than 8 pixels there."""
    draw = {
        "activations": lambda: plot_activations(activations(5), mixture_layer(5), title=LONG),
        "evolution": lambda: plot_evolution(history(), title=LONG),
        "components": lambda: plot_components({"a": history(), "b": history()}),
        "posteriors": lambda: plot_posteriors(torch.rand(9, 1, 4, 4), torch.rand(9, 3), "mode", title=LONG),
    }
    figure = draw[picture]()
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) / 72 * 400 / figure.get_size_inches()[0] > 7.9


def test_components_over_time() -> None:
    figure = plot_components({"a": history(), "gated": History(), "b": history(components=5)})
    a, b = figure.axes[0].lines
    assert a.get_xdata().tolist() == [10, 20, 30, 40, 50]
    assert np.round(a.get_ydata()).tolist() == [3, 3, 2, 3, 3]
    assert np.round(b.get_ydata()).tolist() == [5, 5, 4, 5, 5]
    assert figure.axes[0].get_xlabel() == "optimizer steps"


def test_components_of_the_training_where_they_are_known() -> None:
    both, one = History(), history()
    for epoch in range(1, 4):
        both.record(epoch, 10 * epoch, {"components": 5.0, "training_components": 4.5 - epoch}, None)
    lines = plot_components({"both": both, "one": one}).axes[0].lines
    assert np.round(lines[0].get_ydata(), 1).tolist() == pytest.approx([3.5, 2.5, 1.5], abs=0.1)
    assert np.round(lines[1].get_ydata()).tolist() == [3, 3, 2, 3, 3]


def test_the_images_with_the_highest_posteriors() -> None:
    images = torch.rand(30, 1, 4, 4)
    posteriors = torch.rand(30, 2).softmax(1)
    (axes,) = plot_posteriors(images, posteriors, "mode").axes
    order = scipy.stats.rankdata(-posteriors[:, 1].numpy(), method="ordinal")
    scaled = (images - images.min()) / (images.max() - images.min())
    texts = [text.get_text() for text in axes.texts]
    for place in range(12):
        index = int(np.flatnonzero(order == place + 1)[0])
        np.testing.assert_allclose(axes.images[12 + place].get_array(), scaled[index, 0], atol=1e-6)
        assert texts[14 + place] == f"{posteriors[index, 1]:.2f}"
    share = (posteriors[:, 1] > posteriors[:, 0]).float().mean()
    assert texts[13] == f"mode 2: mean gate {posteriors[:, 1].mean():.1%}, highest in {share:.1%} of images"


def test_where_components_lie() -> None:
    maps = torch.rand(2, 3, 3)
    posteriors = torch.rand(3, 2)
    share = f"{(posteriors[:, 1] > posteriors[:, 0]).float().mean():.1%}"
    (axes,) = plot_posteriors(torch.rand(3, 3, 8, 8), posteriors, "component", maps).axes
    np.testing.assert_allclose(axes.images[4].get_array(), maps[1])
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("where") == 2
    mean = f"mean posterior {posteriors[:, 1].mean():.1%} over positions"
    assert [text for text in texts if text.startswith("component 2")] == [
        f"component 2: {mean}, highest in {share} of images"
    ]


def test_the_earlier_name_of_the_picture_of_posteriors() -> None:
    images, posteriors, maps = torch.rand(3, 3, 8, 8), torch.rand(3, 2), torch.rand(2, 3, 3)
    (old,) = plot_claims(images=images, claims=posteriors, what="component", places=maps, title="a").axes
    (new,) = plot_posteriors(images, posteriors, "component", maps, "a").axes
    assert [text.get_text() for text in old.texts] == [text.get_text() for text in new.texts]
    for one, other in zip(old.images, new.images, strict=True):
        np.testing.assert_array_equal(one.get_array(), other.get_array())


# --- their form ---------------------------------------------------------------------------------------------------

LONG = "network.features.denseblock4.denselayer16.conv2.norm"


@pytest.mark.parametrize(("channels", "components"), [(5, 2), (2048, 40)])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_activations_of_any_size_fit(channels: int, components: int, granularity: Any) -> None:
    layer = mixture_layer(channels, components, granularity)
    assert_nothing_is_cut_off(plot_activations(activations(channels)[:2], layer, title=LONG))


def test_activations_of_many_channels_and_of_modes_fit() -> None:
    layer = ModeNorm(16, 4).eval()
    assert_nothing_is_cut_off(plot_activations(activations(16), layer, range(16), title=LONG))


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_constant_activations_are_drawn(value: float) -> None:
    assert_nothing_is_cut_off(plot_activations(torch.full((8, 2, 3), value), MixtureNorm(2).eval()))


@pytest.mark.parametrize(
    ("channels", "components", "per_channel", "epochs"),
    [(5, 1, False, 1), (5, 3, True, 12), (2048, 40, False, 12), (2048, 40, True, 1)],
)
def test_evolutions_of_any_size_fit(channels: int, components: int, per_channel: bool, epochs: int) -> None:
    assert_nothing_is_cut_off(plot_evolution(history(epochs, channels, components, per_channel), title=LONG))


@pytest.mark.parametrize("layers", [1, 4, 40, 60])
def test_components_of_any_number_of_layers_fit(layers: int) -> None:
    figure = plot_components({f"{LONG}.{i}": history(epochs=100) for i in range(layers)})
    assert_nothing_is_cut_off(figure)
    (axes,) = figure.axes
    assert len(axes.lines) == layers
    renderer = FigureCanvasAgg(figure).get_renderer()
    assert axes.get_window_extent(renderer).width > 300
    assert max(max(line.get_ydata()) for line in axes.lines) < axes.get_ylim()[1]
    if 1 < layers <= 40:  # lines of equal numbers can be told apart
        assert len({(line.get_color(), line._unscaled_dash_pattern) for line in axes.lines}) == layers
        assert len({line.get_ydata()[0] for line in axes.lines}) == layers


@pytest.mark.parametrize(("modes", "images"), [(1, 2), (4, 30), (40, 30)])
def test_posteriors_of_any_size_fit(modes: int, images: int) -> None:
    figure = plot_posteriors(
        torch.rand(images, 3, 8, 8), torch.rand(images, modes), "component", torch.rand(modes, 4, 4), LONG
    )
    assert_nothing_is_cut_off(figure)


def test_the_check_notices_what_is_cut_off() -> None:
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().set_title(LONG)
    with pytest.raises(AssertionError):
        assert_nothing_is_cut_off(figure)


def test_40_lines_differ() -> None:
    assert len({str(line_style(index)) for index in range(45)}) == 45


def test_matplotlib_is_imported_for_a_picture_and_pyplot_never() -> None:
    code = """
import sys, torch, mn_lightning, mn_lightning.plots
assert "matplotlib" not in sys.modules
mn_lightning.plots.plot_activations(torch.randn(20, 2), mn_lightning.MixtureNorm(2).eval())
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- what they refuse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [[], [2], [-1]])
def test_channels_that_are_not_there(channels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"channels got \[.*\]; the layer has 0 to 1"):
        plot_activations(torch.randn(9, 2), MixtureNorm(2).eval(), channels)
    with pytest.raises(ValueError, match=r"channels got \[.*\]; the history holds 0, 1, give"):
        plot_evolution(history(channels=2), channels)


def test_histories_without_what_is_drawn() -> None:
    with pytest.raises(ValueError, match="train with MixtureMonitor"):
        plot_evolution(History())
    with pytest.raises(ValueError, match="train with MixtureMonitor"):
        plot_components({"a": History()})


@pytest.mark.parametrize(("images", "posteriors"), [((2, 1, 4, 4), (3, 2)), ((0, 1, 4, 4), (0, 2)), ((2, 4), (2, 2))])
def test_posteriors_of_something_else(images: tuple[int, ...], posteriors: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="plot_posteriors got images"):
        plot_posteriors(torch.rand(images), torch.rand(posteriors))
    with pytest.raises(ValueError, match="plot_posteriors got maps"):
        plot_posteriors(torch.rand(2, 1, 4, 4), torch.rand(2, 2), maps=torch.rand(3, 4, 4))
