"""What the tests of the networks share."""

import torch
from torch import Tensor, nn


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def outputs(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each submodule returns."""
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _args, output, name=name: found.update({name: output}))
        for name, module in network.named_modules()
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def map_shapes(network: nn.Module, names: list[str], size: int = 32) -> list[tuple[int, int]]:
    """Channels and height of the maps that the submodules return for square RGB images; best on the meta device."""
    device = next(network.parameters()).device
    found = outputs(network.eval(), torch.zeros(2, 3, size, size, device=device))
    assert all(found[name].shape[2] == found[name].shape[3] for name in names)
    return [(found[name].shape[1], found[name].shape[2]) for name in names]


def conv_scales(network: nn.Module) -> list[tuple[float, float]]:
    """The standard deviation of each convolution's weights, beside sqrt(2 / (kernel pixels * out_channels))."""
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [
        (conv.weight.std().item(), (2 / (conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels)) ** 0.5)
        for conv in convs
    ]
