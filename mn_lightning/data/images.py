"""Images in memory, normalized and augmented a batch at a time."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional as v2

from mn_lightning.data.sampler import EpochShuffle

Batch = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` and labels ``(N,)``."""

Loader = DataLoader[Batch]

Key = int | tuple[int, int]
"""An index, or epoch and index."""

Normalization = Literal["standard", "symmetric"]
"""To mean 0 and standard deviation 1 over the training set, or to [-1, 1]."""

_PADDING = 4


def as_it_is(batch: Any) -> Any:
    """Stand in for the DataLoader's collation where a dataset gives whole batches. No lambda: workers unpickle it."""
    return batch


def split_keys(keys: Sequence[Key]) -> tuple[int, list[int]]:
    """Return the epoch that all ``keys`` have, 0 for indices alone, and their indices."""
    epochs, indices = zip(*(key if isinstance(key, tuple) else (0, key) for key in keys), strict=True)
    return epochs[0], list(indices)


class EpochKeys(Sampler[tuple[int, int]]):
    """Adds the epoch to each index of ``shuffle``, so that worker processes learn it too."""

    def __init__(self, shuffle: EpochShuffle) -> None:
        self.shuffle = shuffle

    @property
    def epoch(self) -> int:
        """The epoch whose order is given, counted from 0."""
        return self.shuffle.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of ``epoch``, counted from 0."""
        self.shuffle.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in self.shuffle)

    def __len__(self) -> int:
        return len(self.shuffle)


class Images(Dataset[Batch]):
    """Labelled uint8 images that are read as normalized float32.

    Augmentation is a function of seed, epoch and index: neither the global random state nor the batch size, the number
    of workers or of processes changes how an image looks in an epoch.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        mean: one value per channel, of intensities in [0, 1].
        std: likewise.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images = images
        self.labels = labels
        self.mean = list(mean)
        self.std = list(std)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Batch:
        """Return one image ``(C, H, W)`` and its label ``()``."""
        images, labels = self.__getitems__([key])
        return images[0], labels[0]

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a whole batch, ``(N, C, H, W)`` and ``(N,)``, which the DataLoader must not collate again."""
        epoch, indices = split_keys(keys)
        index = torch.tensor(indices)
        images = self.augment(self.images[index], index, epoch)
        return v2.normalize(v2.to_dtype(images, torch.float32, scale=True), self.mean, self.std), self.labels[index]

    def augment(self, images: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Return the images as they are."""
        return images


class AugmentedImages(Images):
    """Images that are shifted by up to 4 pixels over a black border, and mirrored with probability 1/2.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        mean: one value per channel, of intensities in [0, 1].
        std: likewise.
        flip: whether to mirror; the mirror image of a digit is none.
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
        """Crop and flip ``images``, uint8 ``(N, C, H, W)``, which have the positions ``index`` in the dataset."""
        if epoch != self._drawn_epoch:
            self._draw(epoch)
        height, width = images.shape[-2:]
        top, left, mirrored = self._draws[index].unbind(1)
        # A view of all crops of every image, (N, C, 9, 9, H, W), from which one each is copied.
        crops = v2.pad(images, [_PADDING]).unfold(2, height, 1).unfold(3, width, 1)
        images = crops[torch.arange(len(images)), :, top, left]
        return (
            torch.where(mirrored.bool().view(-1, 1, 1, 1), v2.horizontal_flip(images), images) if self.flip else images
        )

    def _draw(self, epoch: int) -> None:
        # The third number keeps these draws apart from the shuffling's, which has the same seed and epoch.
        rng = np.random.default_rng((self.seed, epoch, 1))
        self._draws = torch.from_numpy(rng.integers([2 * _PADDING + 1] * 2 + [2], size=(len(self), 3)))
        self._drawn_epoch = epoch
