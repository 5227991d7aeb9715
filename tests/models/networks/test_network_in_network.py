"""Network in Network against Lin et al. (arXiv:1312.4400) and Section 4.2 of Deecke et al. (arXiv:1810.05466)."""

import pytest
import torch
from helpers.network_parts import count_parameters, map_shapes, outputs
from torch import nn

from mn_lightning import swap_norms
from mn_lightning.models import NetworkInNetwork


@pytest.mark.parametrize(("num_classes", "without_norms"), [(10, 966_986), (100, 984_356)])
def test_number_of_parameters(num_classes: int, without_norms: int) -> None:
    # The figures are what other implementations of the network without norms assert; they have a bias a channel where
    # this one has the norm's weight and bias.
    channels = [192, 160, 96, 192, 192, 192, 192, 192, num_classes]
    assert count_parameters(NetworkInNetwork(num_classes=num_classes)) == without_norms + sum(channels)


def test_mode_norm_adds_less_than_one_percent() -> None:
    """Section 4.2: "incorporating MN with K = 2 into NIN adds less than 1% to the number of trainable parameters"."""
    network = NetworkInNetwork()
    before = count_parameters(network)
    assert len(swap_norms(network, "all", "mode", n_components=2)) == 9
    assert before < count_parameters(network) < 1.01 * before


def test_feature_maps() -> None:
    names = ["conv1", "cccp1", "cccp2", "pool1", "conv2", "cccp3", "cccp4", "pool2", "conv3", "cccp5", "cccp6", "pool3"]
    channels = [192, 160, 96, 96, 192, 192, 192, 192, 192, 192, 10, 10]
    sizes = [32, 32, 32, 16, 16, 16, 16, 8, 8, 8, 8, 1]
    network = NetworkInNetwork()
    assert map_shapes(network, [f"layers.{name}" for name in names]) == list(zip(channels, sizes, strict=True))


def test_kernel_sizes_and_kinds_of_pools() -> None:
    layers = dict(NetworkInNetwork().layers.named_children())
    kernels = {name: layer.conv.kernel_size[0] for name, layer in layers.items() if isinstance(layer, nn.Sequential)}
    assert kernels == {"conv1": 5, "conv2": 5, "conv3": 3} | {f"cccp{i}": 1 for i in range(1, 7)}
    pools = [type(layers[f"pool{i}"]) for i in (1, 2, 3)]
    assert pools == [nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d]


def test_a_quarter_is_dropped_in_training() -> None:
    network = NetworkInNetwork()
    images = torch.randn(4, 3, 32, 32)
    for i in (1, 2):
        found = outputs(network.train(), images)
        pooled, dropped = found[f"layers.pool{i}"], found[f"layers.drop{i}"]
        alive = pooled != 0
        assert (dropped[alive] == 0).float().mean().item() == pytest.approx(0.25, rel=0.05)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), network(images), atol=0, rtol=0)


def test_logits_are_means_of_the_last_maps() -> None:
    network = NetworkInNetwork(num_classes=7).eval()
    found = outputs(network, torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(found[""], found["layers.cccp6"].mean((2, 3)))
