"""Images in memory, normalized and augmented one batch at a time, on the device that holds them."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from mn_lightning.data.device import sent
from mn_lightning.data.sampler import EpochShuffle

Batch = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` and labels ``(N,)``."""

Loader = DataLoader[Batch]

Key = int | tuple[int, int]
"""An index, or epoch and index."""

Normalization = Literal["standard", "symmetric"]
"""``"standard"``: to mean 0 and standard deviation 1 over the training set; ``"symmetric"``: to [-1, 1]."""

PADDING = 4
"""Width in pixels of the border that crops are taken from."""


def as_it_is(batch: Any) -> Any:
    """Replace the DataLoader's collation for datasets that give whole batches. Not a lambda: workers unpickle it."""
    return batch


def split_keys(keys: Sequence[Key]) -> tuple[int, list[int]]:
    """Return the epoch that all ``keys`` share (0 if they are indices only), and their indices."""
    epochs, indices = zip(*(key if isinstance(key, tuple) else (0, key) for key in keys), strict=True)
    return epochs[0], list(indices)


class EpochKeys(Sampler[tuple[int, int]]):
    """Adds the epoch to each index of ``shuffle``, so that worker processes know it too."""

    def __init__(self, shuffle: EpochShuffle) -> None:
        self.shuffle = shuffle

    @property
    def epoch(self) -> int:
        """The epoch whose order is iterated over, counted from 0."""
        return self.shuffle.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of ``epoch``, counted from 0."""
        self.shuffle.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in self.shuffle)

    def __len__(self) -> int:
        return len(self.shuffle)


class LabelledTensors(TensorDataset):
    """Tensors of one length and device, from which a whole batch is read at once."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a whole batch, which the DataLoader must not collate again."""
        index = sent(torch.tensor(indices), self.tensors[0].device)
        return tuple(tensor.index_select(0, index) for tensor in self.tensors)


class Images(Dataset[Batch]):
    """Labelled uint8 images that are read as normalized float32, on the device that holds them.

    Augmentation depends on seed, epoch and index alone. How an image looks in an epoch does not depend on the global
    random state, the batch size, the device, or the number of workers or processes.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``, on the same device.
        mean: one value per channel, of intensities in [0, 1].
        std: likewise.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images = images
        self.labels = labels
        self.mean, self.std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Batch:
        """Return one image ``(C, H, W)`` and its label ``()``."""
        images, labels = self.__getitems__([key])
        return images[0], labels[0]

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a whole batch, ``(N, C, H, W)`` and ``(N,)``, which the DataLoader must not collate again."""
        epoch, indices = split_keys(keys)
        index = sent(torch.tensor(indices), self.images.device)
        # index_select copies whole images, self.images[index] single bytes: the former is 20 times faster on a CPU.
        images = self.augment(self.images.index_select(0, index), index, epoch)
        # The same as torchvision's normalize, which would make a GPU wait, because it copies mean and std there each
        # time.
        pixels = (images * (1 / 255)).sub_(self.mean).div_(self.std)
        return pixels, self.labels.index_select(0, index)

    def augment(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Return the images as they are."""
        return images


class AugmentedImages(Images):
    """Images that are shifted by up to 4 pixels over a black border, and mirrored with probability 1/2.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``, on the same device.
        mean: one value per channel, of intensities in [0, 1].
        std: likewise.
        flip: whether to mirror; the mirror image of a digit is not a digit.
        seed: not negative.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        flip: bool,
        seed: int,
    ) -> None:
        super().__init__(images, labels, mean, std)
        self.flip = flip
        self.seed = seed
        self._drawn_epoch = -1

    def augment(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Crop and flip ``images``, uint8 ``(N, C, H, W)``, whose positions in the dataset are ``index``."""
        if epoch != self._drawn_epoch:
            self._draw(epoch)
        top, left, mirrored = self._draws.index_select(0, index).unbind(1)
        return crop_and_flip(images, top, left, mirrored.bool() if self.flip else None)

    def _draw(self, epoch: int) -> None:
        # The third number makes these draws different from the shuffling's, which has the same seed and epoch.
        rng = np.random.default_rng((self.seed, epoch, 1))
        draws = torch.from_numpy(rng.integers([2 * PADDING + 1] * 2 + [2], size=(len(self), 3)))
        self._draws = sent(draws, self.images.device)
        self._drawn_epoch = epoch


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Add a black border of 4 pixels to each image, crop it at a position of its own, and mirror some of the results.

    Args:
        images: uint8 ``(N, C, H, W)``.
        top: first row of each image's crop in the image with border, int64 ``(N,)`` in 0..8.
        left: likewise the first column.
        mirrored: which crops to mirror from left to right, bool ``(N,)``; by default none.

    Returns:
        A view, uint8 ``(N, C, H, W)``.
    """
    count, channels, height, width = images.shape
    if mirrored is not None:
        # The mirror image of a crop is a crop of the mirror image, as far from the other side.
        which = torch.arange(count, device=images.device) + count * mirrored
        images = torch.cat([images, images.flip(-1)]).index_select(0, which)
        left = torch.where(mirrored, 2 * PADDING - left, left)
    # A crop's rows begin at equal distances in memory. So one stretch of memory, with the gaps between them, holds all
    # rows, and is copied at once for each channel. One more row at the bottom makes room for the end of the last gap.
    bordered = F.pad(images, [PADDING, PADDING, PADDING, PADDING + 1])
    row, plane = bordered.stride()[2], bordered.stride()[1]
    planes = torch.arange(count * channels, device=images.device).view(count, channels)
    starts = planes * plane + (top * row + left).unsqueeze(1)
    stretches = bordered.flatten().unfold(0, height * row, 1).index_select(0, starts.flatten())
    return stretches.view(count, channels, height, row)[..., :width]
