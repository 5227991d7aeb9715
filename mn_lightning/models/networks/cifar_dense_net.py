"""DenseNet for CIFAR."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mn_lightning.models.networks._blocks import init_convs
from mn_lightning.models.networks._cifar_network import CIFARNetwork

_BLOCKS = 3


# Not "DenseNet": torchvision has a class of that name, and short names on the command line must be unique.
class CIFARDenseNet(CIFARNetwork):
    """DenseNet for 32x32 images (Huang et al., arXiv:1608.06993, Section 3, "Implementation Details").

    A 3x3 convolution, then three dense blocks of equal length, with transitions between them that halve the image. With
    a growth rate of 12, a ``depth`` of 40 is DenseNet-40 and one of 100 DenseNet-100.

    The norm layers have torchvision's names: ``denseblock1.denselayer1.norm1`` and ``transition1.norm``, both in
    ``stages``, and ``norm`` before the last layer. There is no dropout: the authors use it only without data
    augmentation.

    Args:
        depth: number of layers with weights, 40 or 100 in the papers.
        growth_rate: channels that each layer adds.
        bc: DenseNet-BC: a 1x1 convolution to ``4 * growth_rate`` channels before each 3x3 convolution, and transitions
            that halve the channels.
        in_channels: channels of the images, 3 for CIFAR. They have 4x4 pixels or more, 32x32 in the paper.
        num_classes: outputs of the last layer.

    Raises:
        ValueError: ``depth`` cannot be divided equally among the blocks.
    """

    smallest = 4

    def __init__(
        self, depth: int = 40, growth_rate: int = 12, bc: bool = False, in_channels: int = 3, num_classes: int = 10
    ) -> None:
        super().__init__()
        convs_per_layer = 2 if bc else 1
        # The other four are the first convolution, the two transitions and the linear layer.
        layers, rest = divmod(depth - 4, _BLOCKS * convs_per_layer)
        if layers < 1 or rest:
            step = _BLOCKS * convs_per_layer
            raise ValueError(
                f"CIFARDenseNet got depth={depth} with bc={bc}; it takes 4 + {step} * n, such as 40 or 100"
            )
        self.in_channels = in_channels
        channels = 2 * growth_rate if bc else 16
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(1, _BLOCKS + 1):
            stages[f"denseblock{i}"] = _dense_block(layers, channels, growth_rate, bc)
            channels += layers * growth_rate
            if i < _BLOCKS:
                stages[f"transition{i}"] = _transition(channels, channels // 2 if bc else channels)
                channels = channels // 2 if bc else channels
        self.stages = nn.Sequential(stages)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)
        init_convs(self)

    def _logits(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stages(self.conv(images))))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


class _DenseLayer(nn.Sequential):
    """Appends ``growth_rate`` new channels to its input."""

    def __init__(self, channels: int, growth_rate: int, bc: bool) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if bc:
            layers |= _norm_act_conv(1, channels, 4 * growth_rate, 1)
            layers |= _norm_act_conv(2, 4 * growth_rate, growth_rate, 3)
        else:
            layers |= _norm_act_conv(1, channels, growth_rate, 3)
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        new = super().forward(x)  # type: ignore[no-untyped-call]  # as torch has it
        return torch.cat([x, new], 1)


def _norm_act_conv(i: int, in_channels: int, out_channels: int, kernel_size: int) -> dict[str, nn.Module]:
    return {
        f"norm{i}": nn.BatchNorm2d(in_channels),
        f"relu{i}": nn.ReLU(),
        f"conv{i}": nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
    }


def _dense_block(layers: int, channels: int, growth_rate: int, bc: bool) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            (f"denselayer{i + 1}", _DenseLayer(channels + i * growth_rate, growth_rate, bc)) for i in range(layers)
        )
    )


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )
