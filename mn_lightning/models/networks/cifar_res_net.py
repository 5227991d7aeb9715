"""ResNet for CIFAR."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from mn_lightning.models.networks._blocks import init_convs
from mn_lightning.models.networks._cifar_network import CIFARNetwork


class _CIFARResNet(CIFARNetwork):
    """The ResNets of He et al. (arXiv:1512.03385), Section 4.2: three stages with 16, 32 and 64 channels.

    A 3x3 convolution, then stages of torchvision's ``BasicBlock``, each of two 3x3 convolutions; the second and third
    stage start with stride 2. Shortcuts have no parameters: where the shape changes, they take every second pixel and
    append channels of zeros (option A). Modules have torchvision's names: ``bn1``, ``layer1.0.bn1`` to
    ``layer3.2.bn2``.
    """

    smallest = 1

    def __init__(self, blocks: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        init_convs(self)

    def _logits(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


class ResNet20(_CIFARResNet):
    """ResNet with 20 layers for 32x32 images (He et al., arXiv:1512.03385, Section 4.2).

    Deecke et al. (arXiv:1810.05466) train it in Table 3 "in its original architecture", which is this one. The code
    that they published differs: two of the shortcuts have convolutions with norms (option B). The norm layers are
    ``bn1`` and ``layer1.0.bn1`` to ``layer3.2.bn2``.

    Args:
        in_channels: channels of the images, 3 for CIFAR.
        num_classes: outputs of the last layer.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__(3, in_channels, num_classes)


class ResNet56(_CIFARResNet):
    """ResNet with 56 layers for 32x32 images (He et al., arXiv:1512.03385, Section 4.2).

    The norm layers are ``bn1`` and ``layer1.0.bn1`` to ``layer3.8.bn2``.

    Args:
        in_channels: channels of the images, 3 for CIFAR.
        num_classes: outputs of the last layer.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__(9, in_channels, num_classes)


class _HalfSizeMoreChannels(nn.Module):
    """Take every second pixel, and append channels of zeros."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.new_channels))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    shortcut = _HalfSizeMoreChannels(out_channels - in_channels) if stride == 2 else None
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))
