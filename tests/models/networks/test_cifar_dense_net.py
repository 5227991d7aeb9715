"""DenseNet against Table 2 and Section 3 of Huang et al. (arXiv:1608.06993)."""

import pytest
import torch
from helpers.network_parts import conv_scales, count_parameters, map_shapes, outputs
from torch import nn

from mn_lightning import swap_norms
from mn_lightning.models import CIFARDenseNet


@pytest.mark.parametrize(
    ("depth", "bc", "published"),
    # Millions in Table 2, growth rate 12.
    [(40, False, 1.0), (100, False, 7.0), (100, True, 0.8)],
)
def test_number_of_parameters_is_the_published_one(depth: int, bc: bool, published: float) -> None:
    with torch.device("meta"):
        network = CIFARDenseNet(depth, bc=bc)
    assert round(count_parameters(network) / 1e6, 1) == published


def test_number_of_parameters_of_the_plain_one_by_hand() -> None:
    expected = 3 * 16 * 9
    for start in (16, 160, 304):
        inputs = range(start, start + 12 * 12, 12)
        expected += sum(2 * c + c * 12 * 9 for c in inputs)
    expected += sum(2 * c + c * c for c in (160, 304))  # transitions keep the channels
    expected += 2 * 448 + 449 * 10
    with torch.device("meta"):
        assert count_parameters(CIFARDenseNet(40)) == expected == 1_019_722


def test_number_of_parameters_of_bc() -> None:
    """The figure that other implementations of DenseNet-BC-100 assert (769,162, and 800,032 for 100 classes)."""
    with torch.device("meta"):
        assert count_parameters(CIFARDenseNet(100, bc=True)) == 769_162
        assert count_parameters(CIFARDenseNet(100, bc=True, num_classes=100)) == 800_032


@pytest.mark.parametrize(
    ("arguments", "shapes"),
    [
        ({}, [(16, 32), (160, 32), (160, 16), (304, 16), (304, 8), (448, 8)]),
        ({"depth": 100}, [(16, 32), (400, 32), (400, 16), (784, 16), (784, 8), (1168, 8)]),
        ({"depth": 100, "bc": True}, [(24, 32), (216, 32), (108, 16), (300, 16), (150, 8), (342, 8)]),
        ({"depth": 22, "growth_rate": 4}, [(16, 32), (40, 32), (40, 16), (64, 16), (64, 8), (88, 8)]),
    ],
)
def test_feature_maps(arguments: dict[str, int], shapes: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        network = CIFARDenseNet(**arguments)
    stages = [f"stages.{name}" for name in ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")]
    assert map_shapes(network, ["conv", *stages]) == shapes


@pytest.mark.parametrize("bc", [False, True])
def test_a_layer_keeps_what_it_is_given_and_adds_to_it(bc: bool) -> None:
    network = CIFARDenseNet(16, bc=bc)
    found = outputs(network, torch.randn(2, 3, 8, 8))
    before, after = found["stages.denseblock1.denselayer1"], found["stages.denseblock1.denselayer2"]
    assert after.shape[1] == before.shape[1] + 12
    torch.testing.assert_close(after[:, :-12], before, atol=0, rtol=0)
    layer = network.get_submodule("stages.denseblock1.denselayer2")
    new = layer.conv1(layer.norm1(before).relu())
    if bc:
        assert (layer.conv1.kernel_size, layer.conv1.out_channels) == ((1, 1), 48)
        new = layer.conv2(layer.norm2(new).relu())
    torch.testing.assert_close(after[:, -12:], new)


def test_convolutions_have_he_initialization() -> None:
    for std, expected in conv_scales(CIFARDenseNet()):
        assert std == pytest.approx(expected, rel=0.12)


def test_the_activation_after_a_norm_can_be_fused() -> None:
    with torch.device("meta"):
        network = CIFARDenseNet(10)
    report = swap_norms(network, "denseblock1.*", fuse_activation=True)
    assert [line.name for line in report] == [f"stages.denseblock1.denselayer{i}.norm1" for i in (1, 2)]
    assert not report.not_fused
    assert isinstance(network.get_submodule("stages.denseblock1.denselayer1.relu1"), nn.Identity)


@pytest.mark.parametrize(("depth", "bc"), [(41, False), (43, True), (4, False), (0, False)])
def test_wrong_depth(depth: int, bc: bool) -> None:
    with pytest.raises(ValueError, match=rf"got depth={depth} with bc={bc}; it takes 4 \+ {6 if bc else 3} \* n"):
        CIFARDenseNet(depth, bc=bc)
