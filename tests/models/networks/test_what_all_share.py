"""What is asked of every network, except for torchvision's own."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import mn_lightning.models
from mn_lightning import norm_layers
from mn_lightning.__main__ import main
from mn_lightning.models import networks

CIFAR_NETWORKS = [
    networks.CIFARConvNet,
    networks.CIFARDenseNet,
    networks.InceptionV3,
    networks.LeNet,
    networks.NetworkInNetwork,
    networks.ResNet20,
    networks.ResNet56,
    networks.VGG13,
]
Network = Callable[..., nn.Module]
LESS = -1  # than the smallest image


def test_none_is_forgotten() -> None:
    others = {"TorchvisionNetwork", "DCGANDiscriminator", "DCGANGenerator"}
    assert {network.__name__ for network in CIFAR_NETWORKS} | others == set(networks.__all__)
    assert set(networks.__all__) <= set(mn_lightning.models.__all__)


@pytest.mark.parametrize("make", CIFAR_NETWORKS)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_example_input_is_one_that_the_network_takes(make: Network, in_channels: int) -> None:
    with torch.device("meta"):
        network = make(in_channels=in_channels, num_classes=7)
        assert network.example_input_array.shape == (2, in_channels, 32, 32)
        assert network(network.example_input_array).shape == (2, 7)
        assert network.eval()(network.example_input_array).shape == (2, 7)


@pytest.mark.parametrize("make", CIFAR_NETWORKS)
def test_smallest_images(make: Network) -> None:
    with torch.device("meta"):
        network = make().eval()
        assert network(torch.zeros(1, 3, network.smallest, network.smallest)).dim() == 2


@pytest.mark.parametrize("make", CIFAR_NETWORKS)
@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, LESS, 32), (2, 3, 32, LESS), (3, 32, 32), (2, 3072)])
def test_wrong_input(make: Network, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = make()
        size = tuple(network.smallest - 1 if n == LESS else n for n in shape)
        takes = "32, 32" if make is networks.LeNet else rf"H, W\) with H and W >= {network.smallest}"
        with pytest.raises(ValueError, match=rf"it takes \(N, 3, {takes}") as error:
            network(torch.zeros(size))
    assert f"{type(network).__name__} got input of shape {size}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", CIFAR_NETWORKS)
def test_every_parameter_learns(make: Network) -> None:
    network = make()
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("make", CIFAR_NETWORKS)
def test_all_norms_are_plain_batch_norms_that_can_be_swapped_and_are_used(make: Network) -> None:
    with torch.device("meta"):
        network = make()
        layers = norm_layers(network, network.example_input_array)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == len(convolutions)  # also where the norm goes first, since DenseNet ends with one
    assert all(layer.kind == "BatchNorm2d" and layer.input_shape is not None for layer in layers)
    assert all(convolution.bias is None for convolution in convolutions)


def test_networks_can_be_copied() -> None:
    network = networks.CIFARDenseNet(10)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(copy.deepcopy(network)(images), network(images))


@pytest.mark.parametrize("name", ["LeNet", "VGG13", "CIFARDenseNet", "ResNet20", "NetworkInNetwork"])
def test_short_names_on_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["layers", "--model", "ImageClassifier", "--model.network", name])
    assert capsys.readouterr().out.count("BatchNorm2d") == {
        "LeNet": 2,
        "VGG13": 10,
        "CIFARDenseNet": 39,
        "ResNet20": 19,
        "NetworkInNetwork": 9,
    }.get(name)
