"""ResNet20 and ResNet56 against Section 4.2 and Table 6 of He et al. (arXiv:1512.03385)."""

import pytest
import torch
from helpers.network_parts import conv_scales, count_parameters, map_shapes
from torch import nn

from mn_lightning.models import ResNet20, ResNet56


@pytest.mark.parametrize(
    ("make", "blocks", "published", "count"), [(ResNet20, 3, 0.27, 269_722), (ResNet56, 9, 0.85, 853_018)]
)
def test_number_of_parameters(make: type[nn.Module], blocks: int, published: float, count: int) -> None:
    # The table's 6n + 2 layers: n blocks of two convolutions in each of three stages, without any in the shortcuts.
    convs = [(3, 16)] + [(16, 16)] * 2 * blocks
    convs += [(16, 32)] + [(32, 32)] * (2 * blocks - 1) + [(32, 64)] + [(64, 64)] * (2 * blocks - 1)
    assert len(convs) + 1 == 6 * blocks + 2
    expected = sum(9 * before * after + 2 * after for before, after in convs) + 65 * 10
    network = make()
    assert count_parameters(network) == expected == count
    assert round(count_parameters(network) / 1e6, 2) == published
    kernels = {module.kernel_size for module in network.modules() if isinstance(module, nn.Conv2d)}
    assert kernels == {(3, 3)}


def test_feature_maps() -> None:
    names = ["conv1", "layer1", "layer2", "layer3"]
    assert map_shapes(ResNet20(), names) == [(16, 32), (16, 32), (32, 16), (64, 8)]


@pytest.mark.parametrize("size", [8, 7])
def test_shortcuts_are_option_a(size: int) -> None:
    """Where a block's own part is zero, the shortcut alone is left: every other pixel, and zeros as new channels."""
    block = ResNet20().layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, size, size)
    out = block(x)
    half = -(-size // 2)
    assert out.shape == (2, 32, half, half)
    for row in range(half):
        for column in range(half):
            torch.testing.assert_close(out[:, :16, row, column], x[:, :, 2 * row, 2 * column], atol=0, rtol=0)
    assert (out[:, 16:] == 0).all()


def test_shortcuts_within_a_stage_are_the_identity() -> None:
    block = ResNet20().layer2[1]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 32, 4, 4)
    torch.testing.assert_close(block(x), x, atol=0, rtol=0)


def test_convolutions_have_he_initialization() -> None:
    for std, expected in conv_scales(ResNet20()):
        assert std == pytest.approx(expected, rel=0.12)
