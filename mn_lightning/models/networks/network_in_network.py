"""Network in Network for CIFAR."""

from collections import OrderedDict

from torch import Tensor, nn

from mn_lightning.models.networks._blocks import conv_norm_act, init_convs
from mn_lightning.models.networks._cifar_network import CIFARNetwork


class NetworkInNetwork(CIFARNetwork):
    """Network in Network with BatchNorm, as in Deecke et al. (arXiv:1810.05466), Section 4.2.

    The layers are those of the network that Lin et al. (arXiv:1312.4400) published for CIFAR: three times a convolution
    followed by two 1x1 convolutions. The last one makes a map for each class, and the logit is the map's mean.
    "Coupling each convolutional layer with a normalization layer" is taken literally: the last one has a norm and a
    ReLU, too. Biases are left out, because the norms would subtract them again. The dropout after the first two pools
    is 0.25, to which Deecke et al. reduce the original's 0.5.

    The norm layers are ``conv1.norm``, ``cccp1.norm``, ``cccp2.norm``, ``conv2.norm`` and so on to ``cccp6.norm``, all
    in ``layers``. The authors call the 1x1 convolutions cccp, for cascaded cross channel pooling.

    Args:
        in_channels: channels of the images, 3 for CIFAR. They have 4x4 pixels or more, 32x32 in the paper.
        num_classes: maps of the last convolution, which are the outputs.
    """

    smallest = 4

    def __init__(self, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = nn.Sequential(
            OrderedDict(
                conv1=conv_norm_act(in_channels, 192, 5),
                cccp1=conv_norm_act(192, 160, 1),
                cccp2=conv_norm_act(160, 96, 1),
                pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),  # rounding up makes 16 pixels of 32
                drop1=nn.Dropout(0.25),
                conv2=conv_norm_act(96, 192, 5),
                cccp3=conv_norm_act(192, 192, 1),
                cccp4=conv_norm_act(192, 192, 1),
                pool2=nn.AvgPool2d(3, stride=2, ceil_mode=True),
                drop2=nn.Dropout(0.25),
                conv3=conv_norm_act(192, 192, 3),
                cccp5=conv_norm_act(192, 192, 1),
                cccp6=conv_norm_act(192, num_classes, 1),
                pool3=nn.AdaptiveAvgPool2d(1),
            )
        )
        init_convs(self)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).flatten(1)
        return logits
