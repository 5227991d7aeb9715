"""The image classification sets of the two papers."""

from dataclasses import dataclass
from typing import Literal, get_args

from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

DatasetName = Literal["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN"]
Loader = DataLoader[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Facts:
    num_classes: int
    native_size: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def in_channels(self) -> int:
        return len(self.mean)


# Mean and standard deviation over all pixels of the training images, as intensities in [0, 1]. Those of Fashion-MNIST
# were computed from its original files; the others are the figures in common use, to four digits: MNIST's from
# PyTorch's examples, CIFAR's and SVHN's from the many repositories that agree on them. (The CIFAR-10 deviations
# 0.2023, 0.1994, 0.2010 that are seen as often are means of each image's own deviation, hence too small.)
_FACTS: dict[str, _Facts] = {
    "CIFAR10": _Facts(10, 32, True, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": _Facts(100, 32, True, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST": _Facts(10, 28, False, (0.1307,), (0.3081,)),
    "FashionMNIST": _Facts(10, 28, True, (0.2860,), (0.3530,)),
    "SVHN": _Facts(10, 32, False, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


class TorchvisionDataModule(LightningDataModule):
    """CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST or SVHN, held in memory.

    Batches are ``(images, labels)``: float32 ``(N, in_channels, image_size, image_size)``, normalized by mean and
    standard deviation of the training set, and int64 ``(N,)`` in ``0..num_classes - 1``. Smaller originals get a
    black border, which is not 0 after normalization. The prediction loader gives the test batches.

    MNIST and Fashion-MNIST are also read from the four original files, gzipped or not, directly in ``root``: their
    names are the same for both sets, so that ``dataset`` cannot be checked there.

    Args:
        dataset: which set.
        root: folder of the files, in the layout of ``torchvision.datasets``.
        batch_size: images in a batch; the last one of an epoch can be smaller.
        image_size: height and width in pixels, at least 28 (MNIST, Fashion-MNIST) or 32.
        augment: shift training images by up to 4 pixels, and mirror those of CIFAR and Fashion-MNIST half the time.
        val_size: number of training images held out for validation, without augmentation. 0 trains on all of them
            and validates on the *test* set, as both papers do: the best validation score is then no estimate of
            the accuracy on new images.
        num_workers: worker processes of each loader.
        download: fetch missing files.
        seed: decides the held out images and, with the epoch, order and augmentation of the training images.

    Raises:
        ValueError: if ``dataset`` is unknown, ``image_size`` too small or ``val_size`` negative.
    """

    def __init__(
        self,
        dataset: DatasetName,
        root: str = "data",
        batch_size: int = 256,
        image_size: int = 32,
        augment: bool = True,
        val_size: int = 0,
        num_workers: int = 0,
        download: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dataset not in _FACTS:
            raise ValueError(f"dataset is {dataset!r}; it takes one of {', '.join(get_args(DatasetName))}")
        self._facts = _FACTS[dataset]
        if image_size < self._facts.native_size:
            raise ValueError(
                f"image_size is {image_size}; {dataset} has images of {self._facts.native_size} pixels and is only "
                "padded, give that size or more"
            )
        if val_size < 0:
            raise ValueError(f"val_size is {val_size}; it takes the number of images to hold out, or 0")
        self.dataset = dataset
        self.root = root
        self.batch_size = batch_size
        self.image_size = image_size
        self.augment = augment
        self.val_size = val_size
        self.num_workers = num_workers
        self.download = download
        self.seed = seed

    @property
    def num_classes(self) -> int:
        """Number of classes, known before the data is read."""
        return self._facts.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of the images, known before the data is read."""
        return self._facts.in_channels
