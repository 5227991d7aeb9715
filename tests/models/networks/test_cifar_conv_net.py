"""The CNN against Table 1 of Kalayeh & Shah (arXiv:1806.02892)."""

import numpy as np
import pytest
import torch
from helpers.network_parts import count_parameters, outputs
from torch import nn

from mn_lightning import norm_layers, swap_norms
from mn_lightning.models import CIFARConvNet


@pytest.mark.parametrize(
    ("in_channels", "num_classes", "count"),
    [
        # Convolutions without bias, two parameters a channel in each norm, and the linear layer with bias.
        (
            3,
            10,
            (5 * 5 * 3 * 64)
            + (5 * 5 * 64 * 128)
            + (5 * 5 * 128 * 128)
            + (3 * 3 * 128 * 256)
            + 2 * (64 + 128 + 128 + 256)
            + (256 * 10 + 10),
        ),
        (3, 100, 917_834 + 257 * 90),
        (1, 10, 917_834 - 5 * 5 * 2 * 64),
    ],
)
def test_number_of_parameters(in_channels: int, num_classes: int, count: int) -> None:
    network = CIFARConvNet(in_channels, num_classes)
    assert count_parameters(network) == count


def test_feature_map_sizes() -> None:
    found = outputs(CIFARConvNet(), torch.randn(2, 3, 32, 32))
    shapes = {
        "conv1": (2, 64, 32, 32),
        "pool1": (2, 64, 16, 16),
        "conv2": (2, 128, 16, 16),
        "pool2": (2, 128, 8, 8),
        "conv3": (2, 128, 8, 8),
        "pool3": (2, 128, 4, 4),
        "conv4": (2, 256, 4, 4),
        "pool4": (2, 256, 1, 1),
        "linear": (2, 10),
    }
    assert {name: tuple(found[name].shape) for name in shapes} == shapes


def test_kernel_sizes() -> None:
    kernels = {name: m.kernel_size for name, m in CIFARConvNet().named_modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {"conv1.conv": (5, 5), "conv2.conv": (5, 5), "conv3.conv": (5, 5), "conv4.conv": (3, 3)}


def test_norm_layers_have_the_names_that_configurations_use() -> None:
    network = CIFARConvNet()
    names = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert names == ["conv1.norm", "conv2.norm", "conv3.norm", "conv4.norm"]
    found = {layer.name: layer.input_shape for layer in norm_layers(network, network.example_input_array)}
    assert list(found) == names
    report = swap_norms(network, ["conv2", "conv3"], n_components=2)
    assert [layer.name for layer in report] == ["conv2.norm", "conv3.norm"]


def max_pool(image: np.ndarray) -> np.ndarray:
    """Maxima of 3x3 windows, two pixels apart; the last window stops at the border."""
    starts = range(0, image.shape[-1], 2)
    return np.stack([np.stack([image[:, i : i + 3, j : j + 3].max((1, 2)) for j in starts], 1) for i in starts], 1)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_max_pooling_rounds_up(stage: int) -> None:
    found = outputs(CIFARConvNet(), torch.randn(2, 3, 32, 32))
    for before, after in zip(found[f"conv{stage}"].detach(), found[f"pool{stage}"].detach(), strict=True):
        np.testing.assert_array_equal(after.numpy(), max_pool(before.numpy()))


def test_each_stage_normalizes_and_then_cuts_negative_values() -> None:
    found = outputs(CIFARConvNet(), torch.randn(4, 3, 32, 32))
    for stage in range(1, 5):
        before = found[f"conv{stage}.conv"].detach().double()
        mean, var = before.mean((0, 2, 3), keepdim=True), before.var((0, 2, 3), keepdim=True, correction=0)
        expected = ((before - mean) / (var + 1e-5).sqrt()).clamp(min=0)
        torch.testing.assert_close(found[f"conv{stage}"].double(), expected, atol=1e-4, rtol=1e-4)


def test_logits_are_linear_in_the_mean_over_the_image() -> None:
    network = CIFARConvNet(num_classes=7)
    found = outputs(network, torch.randn(2, 3, 32, 32))
    features = found["conv4"].mean((2, 3))
    torch.testing.assert_close(found[""], features @ network.linear.weight.T + network.linear.bias)
    assert found[""].shape == (2, 7)


def test_width_is_a_share_of_the_channels() -> None:
    network = CIFARConvNet(in_channels=1, width=0.25)
    assert [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)] == [16, 32, 32, 64]
    assert network(torch.randn(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("width", [0.0, -1.0, 0.01, float("nan")])
def test_a_width_that_leaves_nothing(width: float) -> None:
    with pytest.raises(ValueError, match="give a share that leaves 1 of 64 channels"):
        CIFARConvNet(width=width)
