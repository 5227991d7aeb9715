"""Building blocks of several networks."""

from collections import OrderedDict

from torch import nn


def conv_norm_act(in_channels: int, out_channels: int, kernel_size: int, padded: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm and ReLU; ``padded`` keeps the image size."""
    # A bias would be subtracted again by the norm.
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2 if padded else 0, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), act=nn.ReLU()))


def init_convs(network: nn.Module) -> None:
    """Draw the convolutions from N(0, 2 / (kernel pixels * out_channels)), He et al. (arXiv:1502.01852), Eq. 14.

    The form with ``out_channels`` is that of the code that the authors of DenseNet and of mode normalization published,
    and of torchvision. Linear layers keep torch's initialization.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
