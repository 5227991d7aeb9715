"""The image classification sets of the two papers."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as v2

from mn_lightning.data.device import check_on_device, device_for
from mn_lightning.data.files import DatasetName, download, load
from mn_lightning.data.images import AugmentedImages, Batch, EpochKeys, Images, Loader, Normalization, as_it_is
from mn_lightning.data.sampler import EpochDataLoader, EpochShuffle, run_seed
from mn_lightning.utils.checks import check_choice


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
# were computed from its original files. The others are the usual numbers, to four digits: MNIST's from PyTorch's
# examples, CIFAR's and SVHN's from the many repositories that agree on them. (The CIFAR-10 deviations 0.2023, 0.1994,
# 0.2010, which are as common, are means of each image's own deviation and therefore too small.)
_FACTS: dict[str, _Facts] = {
    "CIFAR10": _Facts(10, 32, True, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": _Facts(100, 32, True, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST": _Facts(10, 28, False, (0.1307,), (0.3081,)),
    "FashionMNIST": _Facts(10, 28, True, (0.2860,), (0.3530,)),
    "SVHN": _Facts(10, 32, False, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


class TorchvisionDataModule(LightningDataModule):
    """CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST or SVHN, held in memory.

    Batches are ``(images, labels)``: float32 ``(N, in_channels, image_size, image_size)`` and int64 ``(N,)`` in
    ``0..num_classes - 1``. Smaller originals get a black border, which is not 0 after normalization. The prediction
    loader gives the test batches.

    MNIST and Fashion-MNIST are also read from the four original files, gzipped or not, directly in ``root``. Both sets
    have the same file names, so ``dataset`` cannot be checked there.

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
        download: download missing files.
        seed: decides the held out images and, with ``seed_everything``'s seed and the epoch, order and augmentation of
            the training images.
        normalize: ``"standard"``: by mean and standard deviation of the training set's pixels for each channel.
            ``"symmetric"``: black is -1 and white is 1, as GANs take images.
        on_device: hold all images as uint8 on the Trainer's device, and normalize, shift and mirror whole batches
            there. The batches are the same as without it, including order and augmentation. Under DDP each process
            holds all images and reads its share of them. Without a Trainer the device is the CPU.
        drop_last: leave out the last batch of a training epoch if it is smaller. Each epoch leaves out other images.

    Raises:
        ValueError: if ``dataset`` or ``normalize`` is unknown, ``image_size`` is too small, ``val_size`` or ``seed`` is
            negative, or ``num_workers`` is given with ``on_device``.

    Example:
        >>> data = TorchvisionDataModule("CIFAR10", on_device=True)
        >>> data.num_classes, data.in_channels
        (10, 3)
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
        normalize: Normalization = "standard",
        on_device: bool = False,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        check_choice("TorchvisionDataModule", "normalize", normalize, get_args(Normalization))
        check_on_device("TorchvisionDataModule", on_device, num_workers)
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
        if seed < 0:
            raise ValueError(f"seed is {seed}; it takes an integer >= 0")
        self.dataset = dataset
        self.root = root
        self.batch_size = batch_size
        self.image_size = image_size
        self.augment = augment
        self.val_size = val_size
        self.num_workers = num_workers
        self.download = download
        self.seed = seed
        self.normalize = normalize
        self.on_device = on_device
        self.drop_last = drop_last

    @property
    def num_classes(self) -> int:
        """Number of classes, known before the data is read."""
        return self._facts.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of the images, known before the data is read."""
        return self._facts.in_channels

    def prepare_data(self) -> None:
        """Download missing files, if ``download`` asks for it.

        Raises:
            RuntimeError: if that fails; names the files to download by hand.
        """
        if self.download:
            download(self.dataset, self._folder)

    def setup(self, stage: str | None = None) -> None:
        """Read, split and pad, in the same way for every ``stage``: a missing test file is noticed before the training.

        Raises:
            FileNotFoundError: if a file is missing or has another md5 sum; names the files to download.
            ValueError: if ``val_size`` leaves no image to train on, or an idx file is damaged.
        """
        images, labels = self._load(train=True)
        if self.val_size >= len(labels):
            raise ValueError(
                f"val_size is {self.val_size}; {self.dataset} has {len(labels)} training images, hold out fewer"
            )
        # The third number makes this draw different from those of the shuffling and the augmentation.
        order = torch.from_numpy(np.random.default_rng((self.seed, 0, 2)).permutation(len(labels)))
        val, train = order[: self.val_size].sort().values, order[self.val_size :].sort().values

        self.test = Images(*self._placed(*self._load(train=False)), *self._moments)
        self.val = Images(*self._placed(images[val], labels[val]), *self._moments) if self.val_size else self.test
        kept = self._placed(images[train], labels[train])
        self.train = (
            AugmentedImages(*kept, *self._moments, self._facts.flip, run_seed(self.seed))
            if self.augment
            else Images(*kept, *self._moments)
        )

    def train_dataloader(self) -> Loader:
        """Return the training batches; order and augmentation are a function of seed and epoch."""
        keys = EpochKeys(EpochShuffle(len(self.train), run_seed(self.seed)))
        return EpochDataLoader(
            self.train,
            batch_size=self.batch_size,
            sampler=keys,
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            drop_last=self.drop_last,
        )

    def val_dataloader(self) -> Loader:
        """Return the validation batches: the test batches if ``val_size`` is 0."""
        return self._in_order(self.val)

    def test_dataloader(self) -> Loader:
        """Return the test batches."""
        return self._in_order(self.test)

    def predict_dataloader(self) -> Loader:
        """Return the test batches."""
        return self.test_dataloader()

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser()  # a path in a configuration file has not been expanded by a shell

    @property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        halves = (0.5,) * self.in_channels
        return (halves, halves) if self.normalize == "symmetric" else (self._facts.mean, self._facts.std)

    def _placed(self, images: Tensor, labels: Tensor) -> Batch:
        device = device_for(self, self.on_device)
        return images.to(device), labels.to(device)

    def _load(self, train: bool) -> Batch:
        images, labels = load(self.dataset, self._folder, train)
        border = self.image_size - self._facts.native_size
        before, after = border // 2, border - border // 2
        return v2.pad(images, [before, before, after, after]), labels

    def _in_order(self, images: Images) -> Loader:
        # By keyword: Lightning replaces the batch size when it predicts, which it cannot do with a positional one.
        return DataLoader(images, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=as_it_is)
