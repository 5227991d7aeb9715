"""VGG for CIFAR."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from mn_lightning.models.networks._blocks import conv_norm_act, init_convs
from mn_lightning.models.networks._cifar_network import CIFARNetwork

# Names as in the paper: kernel size, channels, number among those of as many channels. A pool ends each stage.
_STAGES = (
    ("conv3-64-1", "conv3-64-2"),
    ("conv3-128-1", "conv3-128-2"),
    ("conv3-256-1", "conv3-256-2"),
    ("conv3-512-1", "conv3-512-2"),
    ("conv3-512-3", "conv3-512-4"),
)


def _module_name(convolution: str) -> str:
    return convolution.replace("-", "_")


class VGG13(CIFARNetwork):
    """VGG13 for 32x32 images with BatchNorm after each convolution (Deecke et al., arXiv:1810.05466, Section 4.2).

    The convolutions are configuration B of Simonyan & Zisserman (arXiv:1409.1556), Table 1, without biases, which the
    norms would subtract again. The five pools leave one pixel of a 32x32 image, and its 512 channels go into one linear
    layer. The original has three linear layers, made for 7x7 pixels. Deecke et al. do not say what they use instead;
    one linear layer is common for CIFAR.

    The norm layers are ``features.conv3_64_1.norm`` to ``features.conv3_512_4.norm``; under ``layers`` of a swap they
    also have the paper's names, ``conv3-64-1`` to ``conv3-512-4``.

    Args:
        in_channels: channels of the images, 3 for CIFAR. They have 32x32 pixels, as in the paper, or more.
        num_classes: outputs of the last layer.
    """

    smallest = 32
    layer_aliases: ClassVar[Mapping[str, Sequence[str]]] = {
        convolution: [f"features.{_module_name(convolution)}.norm"] for stage in _STAGES for convolution in stage
    }

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.in_channels = in_channels
        features: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i, stage in enumerate(_STAGES, start=1):
            for convolution in stage:
                out_channels = int(convolution.split("-")[1])
                features[_module_name(convolution)] = conv_norm_act(channels, out_channels, 3)
                channels = out_channels
            features[f"pool{i}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, num_classes)
        init_convs(self)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.avgpool(self.features(images)).flatten(1))
        return logits
