"""Real images of any source, as bytes."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as v2

from mn_lightning.utils.checks import describe, sized_dataset

ValueRange = tuple[float, float]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def to_bytes(images: Tensor, value_range: ValueRange) -> Tensor:
    """Map images ``(N, C, H, W)`` from ``value_range`` to the nearest of 0..255; uint8 images stay as they are.

    torchmetrics cuts the fraction off instead, which darkens images that were bytes before they were normalized.
    """
    if images.dtype == torch.uint8:
        return images
    low, high = value_range
    return ((images.float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)


class ImageFolder(Dataset[Tensor]):
    """All images in a folder and the folders in it, in the order of their paths, as uint8 RGB ``(3, H, W)``.

    Args:
        folder: holds png, jpg, jpeg, bmp or webp files of one size.

    Raises:
        ValueError: if there are no images in ``folder``; when an image is read that has another size than the first.
    """

    def __init__(self, folder: str) -> None:
        root = Path(folder).expanduser()
        self.paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not self.paths:
            raise ValueError(f"{root} holds no images; it takes a folder with {', '.join(sorted(_SUFFIXES))} files")
        with Image.open(self.paths[0]) as first:
            self.size = first.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image."""
        with Image.open(self.paths[index]) as image:
            if image.size != self.size:
                raise ValueError(
                    f"{self.paths[index]} has size {image.size}, the first image of its folder {self.size}; "
                    "resize them to one size"
                )
            pixels: Tensor = v2.pil_to_tensor(image.convert("RGB"))
        return pixels


class RealImages:
    """The images of a DataLoader's dataset or of a folder, to be read in parts.

    Every image of the dataset counts once, whatever sampler, batch size and ``drop_last`` the loader has for training.

    Args:
        source: a DataLoader over a dataset with a length, whose batches are images ``(N, C, H, W)`` or a tuple or list
            that starts with them, or the path of a folder of images.
        value_range: values of black and white in images of floating point.
        batch_size: images read at a time.

    Raises:
        ValueError: if ``source`` is neither; when read, if a batch holds no images, or values beyond ``value_range``.
    """

    def __init__(self, source: DataLoader[Any] | str, value_range: ValueRange, batch_size: int) -> None:
        self.value_range = value_range
        if isinstance(source, str):
            self._dataset: Any = ImageFolder(source)
            self._options: dict[str, Any] = {}
        else:
            self._dataset = sized_dataset(
                source,
                lambda given: (
                    f"real images come from {given}; give a DataLoader over a dataset with a length, or a folder, as "
                    "`real`"
                ),
            )
            names = ("collate_fn", "num_workers", "worker_init_fn")
            self._options = {name: getattr(source, name) for name in names}
        self._options["batch_size"] = batch_size

    def __len__(self) -> int:
        return len(self._dataset)

    def batches(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Return the images at ``indices`` in that order, as uint8 batches ``(N, C, H, W)`` on the CPU."""
        # Lightning and users give loaders random or distributed samplers; which image is read must not depend on them.
        for batch in DataLoader(self._dataset, sampler=indices, **self._options):
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            if not isinstance(images, Tensor) or images.dim() != 4:
                raise ValueError(
                    f"a batch of real images has {describe(images)}; it takes images (N, C, H, W), or a tuple of them "
                    "and more"
                )
            self._check_values(images)
            yield to_bytes(images, self.value_range).cpu()  # a data set can lie on a GPU

    def _check_values(self, images: Tensor) -> None:
        if images.dtype == torch.uint8:
            return
        low, high = self.value_range
        least, most = float(images.min()), float(images.max())
        rounding = 0.5 * (high - low) / 255
        if not (least >= low - rounding and most <= high + rounding):  # NaN is refused too
            raise ValueError(
                f"real images have values from {least:.4g} to {most:.4g}, beyond value_range {self.value_range}; give "
                "the values of black and white as value_range, or other images as `real`"
            )


def content_digest(batches: Iterable[Tensor], indices: Sequence[int]) -> Tensor:
    """Hash images by content and position, so that the digests of parts add up to the digest of the whole.

    Args:
        batches: images as ``(N, C, H, W)`` in the order of ``indices``.
        indices: positions of the images in the whole.

    Returns:
        int64 ``(4,)``, to be added with overflow.
    """
    total = np.zeros(4, dtype=np.int64)
    positions = iter(indices)
    for images in batches:
        head = f"{images.dtype}{tuple(images.shape[1:])}"
        for image in images.numpy():
            content = hashlib.blake2b(f"{next(positions)} {head}".encode(), digest_size=32)
            content.update(np.ascontiguousarray(image).data)
            total += np.frombuffer(content.digest(), dtype=np.int64)
    return torch.from_numpy(total)
