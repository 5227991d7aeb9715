"""The base of networks for small images: it checks the images' shape."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class CIFARNetwork(nn.Module):
    """Base of the networks for CIFAR's 32x32 images: it checks the images' shape; subclasses define ``_logits``.

    Attributes:
        in_channels: channels of the images.
        smallest: the least height and width in pixels for which the last pool still has an output.
    """

    in_channels: int
    smallest: ClassVar[int]

    @property
    def example_input_array(self) -> Tensor:
        """Zeros of shape ``(2, in_channels, 32, 32)``, from which Lightning derives the sizes in its model summary."""
        return torch.zeros(2, self.in_channels, 32, 32)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            images: ``(N, in_channels, H, W)``.

        Returns:
            Logits of shape ``(N, num_classes)``.

        Raises:
            ValueError: if ``images`` has another shape or is too small for the last pool.
        """
        if images.dim() != 4 or images.shape[1] != self.in_channels or min(images.shape[2:]) < self.smallest:
            raise ValueError(
                f"{type(self).__name__} got input of shape {tuple(images.shape)}; it takes (N, {self.in_channels}, H, "
                f"W) with H and W >= {self.smallest}, resize the images or build it with another in_channels"
            )
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        raise NotImplementedError
