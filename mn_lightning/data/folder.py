"""ImageNet, and any other folder of images."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2f

from mn_lightning.data.images import Batch, EpochKeys, Key, Loader, Normalization, as_it_is, split_keys
from mn_lightning.data.sampler import EpochDataLoader, EpochShuffle, run_seed
from mn_lightning.utils.checks import check_at_least, check_choice
from mn_lightning.utils.image_files import list_folders, list_images, read_rgb

# The usual numbers for ImageNet, for intensities in [0, 1]. Other image folders are normalized by them as well.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALVES = (0.5, 0.5, 0.5)

_Split = Literal["train", "val"]


class FolderImages(Dataset[Batch]):
    """Labelled images that are read from their files when they are asked for.

    Random transforms depend on seed, epoch and index alone. How an image looks in an epoch does not depend on the
    global random state, the batch size, or the number of workers or processes.

    Args:
        samples: path and label of each image.
        transform: makes a uint8 tensor ``(3, H, W)``, always of the same size, from a PIL image in RGB.
        mean: one value per channel, of intensities in [0, 1].
        std: likewise.
        seed: not negative.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        transform: v2.Transform,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
    ) -> None:
        # Not a list: worker processes would copy a million strings one by one, because reading one changes its
        # reference count.
        self.paths = np.array([os.fsencode(path) for path, _ in samples])
        self.labels = torch.tensor([label for _, label in samples])
        self.transform = transform
        self.mean = list(mean)
        self.std = list(std)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Batch:
        """Return one image ``(3, H, W)`` and its label ``()``."""
        images, labels = self.__getitems__([key])
        return images[0], labels[0]

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a whole batch, ``(N, 3, H, W)`` and ``(N,)``, which the DataLoader must not collate again.

        Raises:
            ValueError: if an image cannot be read as 8-bit RGB; names its path.
        """
        epoch, indices = split_keys(keys)
        images = torch.stack([self._read(epoch, index) for index in indices])
        return v2f.normalize(v2f.to_dtype(images, torch.float32, scale=True), self.mean, self.std), self.labels[indices]

    def _read(self, epoch: int, index: int) -> Tensor:
        path = os.fsdecode(self.paths[index])
        image = read_rgb(path)
        with _random_state((self.seed, epoch, 3, index)):
            pixels: Tensor = self.transform(image)
        return pixels


class ImageFolderDataModule(LightningDataModule):
    """ImageNet, or any images in ``root/train/CLASS/`` and ``root/val/CLASS/``.

    Batches are ``(images, labels)``: float32 ``(N, 3, image_size, image_size)`` and int64 ``(N,)``, the position of
    the class among the sorted names of the class folders. Validation, test and prediction loaders all give the images
    of ``val``, as ImageNet's test labels are not public.

    ImageNet is read from the folders to which torchvision's ``ImageNet`` unpacks it. The recipe is the usual one.
    Training takes a random part with 8 to 100% of the image's area, resized to 224x224 and mirrored half the time.
    Evaluation resizes the image to 256 on its shorter side and takes the central 224x224.

    Args:
        root: folder with ``train`` and ``val``.
        batch_size: images in a batch of each process; the last one of an epoch can be smaller.
        image_size: height and width in pixels; the 256 above becomes 8/7 of it.
        num_workers: worker processes of each loader, which decode the images.
        seed: decides, with ``seed_everything``'s seed and the epoch, order and augmentation of the training images.
        normalize: ``"standard"``: by ImageNet's mean and standard deviation for each channel. ``"symmetric"``: black is
            -1 and white is 1, as GANs take images.

    Raises:
        ValueError: if ``normalize`` is unknown, ``image_size`` is not positive, or ``seed`` is negative.
    """

    in_channels: ClassVar[int] = 3

    def __init__(
        self,
        root: str = "data/imagenet",
        batch_size: int = 64,
        image_size: int = 224,
        num_workers: int = 4,
        seed: int = 0,
        normalize: Normalization = "standard",
    ) -> None:
        super().__init__()
        check_choice("ImageFolderDataModule", "normalize", normalize, get_args(Normalization))
        check_at_least("ImageFolderDataModule", "image_size", image_size, 1)
        check_at_least("ImageFolderDataModule", "seed", seed, 0)
        self.root = root
        self.batch_size = batch_size
        self.image_size = image_size
        self.num_workers = num_workers
        self.seed = seed
        self.normalize = normalize

    @property
    def num_classes(self) -> int:
        """Number of folders in ``root/train``, known before the images are listed.

        Raises:
            FileNotFoundError: if there is none; says which folders to make and where to get ImageNet.
        """
        return len(self._classes("train"))

    def setup(self, stage: str | None = None) -> None:
        """List the images, in the same way for every ``stage``: a missing ``val`` is noticed before the training.

        Raises:
            FileNotFoundError: if a folder or its images are missing; says which folders to make and where to get
                ImageNet.
            ValueError: if ``train`` and ``val`` have different classes.
        """
        train, val = set(self._classes("train")), set(self._classes("val"))
        if train != val:
            one = min(train ^ val)
            raise ValueError(
                f"{self._folder} has {len(train)} classes in train and {len(val)} in val, {len(train & val)} of them "
                f"in both; {one} is only in {'train' if one in train else 'val'}, give both the same class folders"
            )
        size = self.image_size
        crop = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        centre = [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)]
        self.train = self._images("train", crop)
        self.val = self.test = self._images("val", centre)

    def train_dataloader(self) -> Loader:
        """Return the training batches; order and augmentation are a function of seed and epoch."""
        keys = EpochKeys(EpochShuffle(len(self.train), run_seed(self.seed)))
        return EpochDataLoader(
            self.train, batch_size=self.batch_size, sampler=keys, num_workers=self.num_workers, collate_fn=as_it_is
        )

    def val_dataloader(self) -> Loader:
        """Return the batches of ``val``."""
        # By keyword: Lightning replaces the batch size when it predicts, which it cannot do with a positional one.
        return DataLoader(self.val, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=as_it_is)

    def test_dataloader(self) -> Loader:
        """Return the batches of ``val``."""
        return self.val_dataloader()

    def predict_dataloader(self) -> Loader:
        """Return the batches of ``val``."""
        return self.val_dataloader()

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser()  # a path in a configuration file has not been expanded by a shell

    def _classes(self, split: _Split) -> list[str]:
        folder = self._folder / split
        classes = list_folders(folder) if folder.is_dir() else []
        if not classes:
            raise FileNotFoundError(f"{folder} has no class folders; {self._advice()}")
        return classes

    def _images(self, split: _Split, geometry: list[v2.Transform]) -> FolderImages:
        samples: list[tuple[str, int]] = []
        left_out: list[str] = []
        for label, name in enumerate(self._classes(split)):
            images, others = list_images(self._folder / split / name)
            if not images:
                raise FileNotFoundError(f"{self._folder / split}: the class {name} has no images; {self._advice()}")
            samples += [(path, label) for path in images]
            left_out += others
        if left_out:
            rank_zero_warn(
                f"{self._folder / split} holds {len(left_out)} files whose names are not those of images, such as "
                f"{left_out[0]}; they are left out"
            )
        mean, std = (_HALVES, _HALVES) if self.normalize == "symmetric" else (_MEAN, _STD)
        return FolderImages(samples, v2.Compose([*geometry, v2.PILToTensor()]), mean, std, run_seed(self.seed))

    def _advice(self) -> str:
        return (
            f"put images into {self._folder}/train/CLASS/ and {self._folder}/val/CLASS/. For ImageNet put "
            "ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
            f"https://image-net.org into {self._folder}, and call torchvision.datasets.ImageNet('{self._folder}', "
            "split) for both splits, 'train' and 'val', which unpacks them to these folders"
        )


@contextmanager
def _random_state(key: tuple[int, ...]) -> Iterator[None]:
    """Seed torch's generator, from which torchvision's transforms draw, with ``key``; restore its state afterwards."""
    state = torch.get_rng_state()
    # Not torch.manual_seed, which would seed the GPUs' generators as well.
    torch.default_generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
    try:
        yield
    finally:
        torch.set_rng_state(state)
