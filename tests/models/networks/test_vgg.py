"""VGG13 against configuration B of Simonyan & Zisserman (arXiv:1409.1556), Table 1, and torchvision's."""

import pytest
import torch
from helpers.network_parts import conv_scales, count_parameters, map_shapes
from torch import nn
from torchvision.models import vgg13_bn

from mn_lightning import swap_norms
from mn_lightning.models import VGG13, ImageClassifier

WIDTHS = [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]


@pytest.mark.parametrize(("in_channels", "num_classes"), [(3, 10), (3, 100), (1, 10)])
def test_number_of_parameters(in_channels: int, num_classes: int) -> None:
    inputs = [in_channels, *WIDTHS]
    expected = sum(9 * before * after + 2 * after for before, after in zip(inputs, WIDTHS, strict=False))
    with torch.device("meta"):
        network = VGG13(in_channels, num_classes)
    assert count_parameters(network) == expected + 513 * num_classes


def test_number_of_parameters_against_torchvision() -> None:
    with torch.device("meta"):
        ours, theirs = VGG13(), vgg13_bn()
    biases = sum(WIDTHS)
    assert count_parameters(ours.features) == count_parameters(theirs.features) - biases == 9_413_066 - 5_130


def test_feature_maps() -> None:
    with torch.device("meta"):
        network = VGG13()
    names = [name for name, _ in network.features.named_children()]
    sizes = [32, 32, 16, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1]
    channels = [64, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert map_shapes(network, [f"features.{name}" for name in names]) == list(zip(channels, sizes, strict=True))


def test_the_papers_names_work_as_layers() -> None:
    """Figure 2 shows conv3-64-1 and conv3-256-1."""
    with torch.device("meta"):
        model = ImageClassifier(VGG13())
    report = swap_norms(model, ["conv3-64-1", "conv3-256-1"], "mode")
    assert [line.name for line in report] == ["network.features.conv3_64_1.norm", "network.features.conv3_256_1.norm"]
    assert [line.shape for line in report] == [(64,), (256,)]
    assert len(swap_norms(model, "conv3-512-*", "mode")) == 4
    assert [layer for (layer,) in VGG13.layer_aliases.values()] == [
        name for name, module in VGG13().named_modules() if isinstance(module, nn.BatchNorm2d)
    ]


def test_convolutions_have_he_initialization() -> None:
    for std, expected in conv_scales(VGG13()):
        assert std == pytest.approx(expected, rel=0.1)
