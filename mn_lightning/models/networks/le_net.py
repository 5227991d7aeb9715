"""LeNet for 32x32 images."""

from torch import Tensor, nn

from mn_lightning.models.networks._blocks import conv_norm_act, init_convs
from mn_lightning.models.networks._cifar_network import CIFARNetwork


class LeNet(CIFARNetwork):
    """LeNet with BatchNorm and a 40-way classifier, as in Deecke et al. (arXiv:1810.05466), Section 4.1.

    The paper gives no sizes. These are LeNet-5's (LeCun et al., Proc. IEEE 1998), which takes 32x32 inputs like those
    of the multi-task set: 5x5 convolutions with 6 and 16 channels, then linear layers with 120 and 84 outputs, with
    ReLU and max pools in place of the original's tanh and scaled averages. Only the convolutions are followed by norms,
    ``conv1.norm`` and ``conv2.norm``, because instance norm, one of the paper's baselines in Table 1, has no statistics
    after a linear layer.

    Args:
        in_channels: channels of the images, 3 for the multi-task set, in which grayscale images are made RGB.
        num_classes: outputs of the last layer.
    """

    smallest = 32

    def __init__(self, in_channels: int = 3, num_classes: int = 40) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = conv_norm_act(in_channels, 6, 5, padded=False)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = conv_norm_act(6, 16, 5, padded=False)
        self.pool2 = nn.MaxPool2d(2)
        self.linear1 = nn.Sequential(nn.Linear(16 * 5 * 5, 120), nn.ReLU())
        self.linear2 = nn.Sequential(nn.Linear(120, 84), nn.ReLU())
        self.linear3 = nn.Linear(84, num_classes)
        init_convs(self)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            images: ``(N, in_channels, 32, 32)``.

        Returns:
            Logits of shape ``(N, num_classes)``.

        Raises:
            ValueError: if ``images`` has another shape.
        """
        if images.dim() != 4 or images.shape[1:] != (self.in_channels, 32, 32):
            raise ValueError(
                f"LeNet got input of shape {tuple(images.shape)}; it takes (N, {self.in_channels}, 32, 32), pad or "
                f"resize the images or build it with another in_channels"
            )
        x = self.pool1(self.conv1(images))
        x = self.pool2(self.conv2(x))
        logits: Tensor = self.linear3(self.linear2(self.linear1(x.flatten(1))))
        return logits
