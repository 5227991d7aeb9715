"""Real data that needs no download."""

from typing import ClassVar, get_args

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader

from mn_lightning.data.device import check_on_device, device_for
from mn_lightning.data.images import LabelledTensors, Normalization, as_it_is
from mn_lightning.data.sampler import EpochDataLoader, EpochShuffle, run_seed
from mn_lightning.utils.checks import check_choice

_HELD_OUT = 270  # 15% of the 1797 images, once for validation and once for testing


class DigitsDataModule(LightningDataModule):
    """The 1797 handwritten 8x8 digits inside scikit-learn, split 1257/270/270 with equal class shares.

    Batches are ``(images, labels)``: float32 ``(N, 1, image_size, image_size)`` and int64 ``(N,)`` in 0..9. The
    prediction loader gives the test batches.

    Args:
        batch_size: images in a batch; the last one of an epoch can be smaller.
        image_size: height and width in pixels to which the digits are resized bilinearly, at least 8.
        num_workers: worker processes of each loader.
        seed: decides the split and, with ``seed_everything``'s seed and the epoch, the order of the training images.
        normalize: ``"standard"``: to mean 0 and standard deviation 1 over all training pixels. ``"symmetric"``: black
            is -1 and white is 1, as GANs take images.
        on_device: hold all images on the Trainer's device, and make the same batches there; without a Trainer, on the
            CPU. They are held as float32, because resized images are not whole bytes.

    Raises:
        ValueError: if ``image_size`` is less than 8, ``normalize`` is unknown, or ``num_workers`` is given with
            ``on_device``.

    Example:
        >>> data = DigitsDataModule(batch_size=64, image_size=16)
        >>> data.setup()
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.dtype
        (torch.Size([64, 1, 16, 16]), torch.int64)
    """

    num_classes: ClassVar[int] = 10
    in_channels: ClassVar[int] = 1

    def __init__(
        self,
        batch_size: int = 64,
        image_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        normalize: Normalization = "standard",
        on_device: bool = False,
    ) -> None:
        super().__init__()
        check_choice("DigitsDataModule", "normalize", normalize, get_args(Normalization))
        check_on_device("DigitsDataModule", on_device, num_workers)
        if image_size < 8:
            raise ValueError(f"image_size is {image_size}; the digits are 8x8, give 8 or more")
        self.batch_size = batch_size
        self.image_size = image_size
        self.num_workers = num_workers
        self.seed = seed
        self.normalize = normalize
        self.on_device = on_device

    def setup(self, stage: str | None = None) -> None:
        """Read, split, resize and normalize, in the same way for every ``stage``."""
        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16  # pixels are counts of 0..16
        images = F.interpolate(images, size=self.image_size, mode="bilinear")

        rest, test = self._split(torch.arange(len(labels)), labels)
        train, val = self._split(rest, labels)
        if self.normalize == "symmetric":
            images = 2 * images - 1
        else:
            images = (images - images[train].mean()) / images[train].std()
        device = device_for(self, self.on_device)
        self.train, self.val, self.test = (
            LabelledTensors(images[part].to(device), labels[part].to(device)) for part in (train, val, test)
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the training batches, in an order that is a function of seed and epoch."""
        sampler = EpochShuffle(len(self.train), run_seed(self.seed))
        return EpochDataLoader(
            self.train, batch_size=self.batch_size, sampler=sampler, num_workers=self.num_workers, collate_fn=as_it_is
        )

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the validation batches."""
        return self._in_order(self.val)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the test batches."""
        return self._in_order(self.test)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the test batches."""
        return self.test_dataloader()

    def _in_order(self, images: LabelledTensors) -> DataLoader[tuple[Tensor, ...]]:
        # By keyword: Lightning replaces the batch size when it predicts, which it cannot do with a positional one.
        return DataLoader(images, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=as_it_is)

    def _split(self, index: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kept, held_out = train_test_split(
            index.numpy(), test_size=_HELD_OUT, random_state=self.seed, stratify=labels[index].numpy()
        )
        return torch.from_numpy(kept), torch.from_numpy(held_out)
