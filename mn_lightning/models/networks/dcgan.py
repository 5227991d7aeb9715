"""The two networks of DCGAN, with plain BatchNorm, which can be swapped from outside."""

import math
from collections import OrderedDict
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mn_lightning.utils.checks import check_choice

DiscriminatorNorm = Literal["batch", "spectral"]

IMAGE_SIZES = (32, 64)
_SEED_SIZE = 4  # height and width between the generator's linear layer and its first deconvolution


class DCGANGenerator(nn.Module):
    """Makes images from latents: one linear and four deconvolution layers (Kalayeh & Shah, Section 5.3).

    The linear layer makes 4x4 pixels with ``8 * base_channels`` channels. Each of the first three deconvolutions
    doubles the size and halves the channels. The fourth one makes the image: it keeps the 32 pixels of CIFAR-10, or
    doubles them to 64 as DCGAN does (Radford et al., arXiv:1511.06434, Figure 1). Its output goes through tanh.

    All layers but the last are followed by BatchNorm and ReLU, as in DCGAN's Section 3: ``linear.norm`` and
    ``deconv1.norm`` to ``deconv3.norm``. Kalayeh & Shah swap ``deconv1.norm`` and ``deconv2.norm``; they do not mention
    a norm after the linear layer.

    Args:
        latent_features: length of a latent vector, 100 in DCGAN.
        out_channels: channels of the images.
        image_size: height and width of the images in pixels, 32 or 64.
        base_channels: channels after the third deconvolution.
        norm_all_features: normalize each output of the linear layer by itself, and not by channels; ``linear.norm`` is
            then a BatchNorm1d.

    Raises:
        ValueError: another ``image_size``.
    """

    def __init__(
        self,
        latent_features: int = 100,
        out_channels: int = 3,
        image_size: int = 32,
        base_channels: int = 64,
        norm_all_features: bool = False,
    ) -> None:
        super().__init__()
        check_image_size("DCGANGenerator", image_size)
        wide = 8 * base_channels
        features = wide * _SEED_SIZE**2
        # A bias before a norm would be subtracted again by it.
        linear = nn.Linear(latent_features, features, bias=False)
        unflatten = nn.Unflatten(1, (wide, _SEED_SIZE, _SEED_SIZE))
        parts: OrderedDict[str, nn.Module] = (
            OrderedDict(linear=linear, norm=nn.BatchNorm1d(features), unflatten=unflatten, act=nn.ReLU())
            if norm_all_features
            else OrderedDict(linear=linear, unflatten=unflatten, norm=nn.BatchNorm2d(wide), act=nn.ReLU())
        )
        self.linear = nn.Sequential(parts)
        self.deconv1 = _deconv_norm_act(wide, wide // 2)
        self.deconv2 = _deconv_norm_act(wide // 2, wide // 4)
        self.deconv3 = _deconv_norm_act(wide // 4, base_channels)
        kernel_size, stride = (4, 2) if image_size == 64 else (3, 1)
        self.deconv4 = nn.Sequential(
            OrderedDict(
                deconv=nn.ConvTranspose2d(base_channels, out_channels, kernel_size, stride, padding=1), act=nn.Tanh()
            )
        )
        self.apply(_init_weights)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1], ``(N, out_channels, image_size, image_size)``, of ``(N, latent_features)``."""
        x = self.linear(latents)
        x = self.deconv3(self.deconv2(self.deconv1(x)))
        images: Tensor = self.deconv4(x)
        return images


class DCGANDiscriminator(nn.Module):
    """Tells real from generated images: strided convolutions down to 4x4 pixels, and a linear layer (DCGAN, Section 3).

    There are three convolutions for 32 pixels, four for 64. Each halves the size, has twice the channels of the one
    before, and is followed by LeakyReLU with slope 0.2.

    Args:
        in_channels: channels of the images.
        image_size: height and width of the images in pixels, 32 or 64.
        base_channels: channels after the first convolution.
        norm: ``"batch"`` puts BatchNorm after all convolutions but the first, as DCGAN does; ``"spectral"`` divides the
            weight of every layer by its largest singular value instead (Miyato et al., arXiv:1802.05957). torch cannot
            pickle the latter, so it cannot be sent to spawned processes; Lightning's ``ddp``, which starts scripts,
            works.

    Raises:
        ValueError: another ``image_size`` or ``norm``.
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: int = 32,
        base_channels: int = 64,
        norm: DiscriminatorNorm = "batch",
    ) -> None:
        super().__init__()
        check_image_size("DCGANDiscriminator", image_size)
        check_choice("DCGANDiscriminator", "norm", norm, get_args(DiscriminatorNorm))
        convs = int(math.log2(image_size // _SEED_SIZE))
        channels = [in_channels, *(base_channels * 2**i for i in range(convs))]
        self.convs = nn.Sequential(
            OrderedDict(
                (f"conv{i + 1}", _conv_norm_act(channels[i], channels[i + 1], i > 0 and norm == "batch"))
                for i in range(convs)
            )
        )
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels[-1] * _SEED_SIZE**2, 1)
        self.apply(_init_weights)
        if norm == "spectral":
            for layer in [*self.convs.modules(), self.linear]:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    spectral_norm(layer)

    def forward(self, images: Tensor) -> Tensor:
        """Return one logit for each image, ``(N,)``, positive for real, of ``(N, in_channels, H, W)``."""
        logits: Tensor = self.linear(self.flatten(self.convs(images)))
        return logits.squeeze(1)


def check_image_size(owner: str, image_size: int) -> None:
    """Refuse a size for which the networks are not made."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"{owner} got image_size={image_size!r}; it takes 32 or 64, resize the images")


def _deconv_norm_act(in_channels: int, out_channels: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(OrderedDict(deconv=deconv, norm=nn.BatchNorm2d(out_channels), act=nn.ReLU()))


def _conv_norm_act(in_channels: int, out_channels: int, norm: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=not norm)
    if norm:
        layers["norm"] = nn.BatchNorm2d(out_channels)
    layers["act"] = nn.LeakyReLU(0.2)
    return nn.Sequential(layers)


def _init_weights(module: nn.Module) -> None:
    """Draw from N(0, 0.02²), DCGAN's Section 4; norms keep the identity."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
