"""The CIFAR CNN of Kalayeh & Shah."""

from torch import Tensor, nn

from mn_lightning.models.networks._blocks import conv_norm_act
from mn_lightning.models.networks._cifar_network import CIFARNetwork


class CIFARConvNet(CIFARNetwork):
    """The five-layer CIFAR CNN of Kalayeh & Shah (arXiv:1806.02892), Table 1.

    The norm layers are ``conv1.norm`` to ``conv4.norm``; the paper swaps ``conv2.norm`` and ``conv3.norm``.

    Args:
        in_channels: channels of the images, 3 for CIFAR. They have 8x8 pixels or more, 32x32 in the paper.
        num_classes: outputs of the last layer, 10 or 100 in the paper.
        width: every convolution has this share of the paper's channels; below 1 for small machines.

    Raises:
        ValueError: ``width`` leaves a convolution without channels.
    """

    smallest = 8

    def __init__(self, in_channels: int = 3, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        self.in_channels = in_channels
        if not width * 64 >= 1:
            raise ValueError(f"CIFARConvNet: width is {width}; give a share that leaves 1 of 64 channels or more")
        first, middle, last = (int(width * channels) for channels in (64, 128, 256))
        self.conv1 = conv_norm_act(in_channels, first, 5)
        # Table 1 prints padding 0 and sizes 32, 16, 8, 4: with 3x3 windows and stride 2 only rounding up gives both.
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = conv_norm_act(first, middle, 5)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv3 = conv_norm_act(middle, middle, 5)
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv4 = conv_norm_act(middle, last, 3)
        self.pool4 = nn.AdaptiveAvgPool2d(1)  # Table 1's 4x4 window for its 32x32 images
        self.linear = nn.Linear(last, num_classes)

    def _logits(self, images: Tensor) -> Tensor:
        x = self.pool1(self.conv1(images))
        x = self.pool2(self.conv2(x))
        x = self.pool3(self.conv3(x))
        x = self.pool4(self.conv4(x))
        logits: Tensor = self.linear(x.flatten(1))
        return logits
