"""Real images from any source, as bytes."""

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as v2

from mn_lightning.utils.checks import describe, sized_dataset
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.image_files import SUFFIXES, list_images, read_rgb

ValueRange = tuple[float, float]

PIPELINE = 1
"""Version of the processing between a source of images and their features; increase it whenever values change."""


def to_bytes(images: Tensor, value_range: ValueRange) -> Tensor:
    """Map images ``(N, C, H, W)`` from ``value_range`` to the nearest of 0..255; uint8 images stay as they are.

    torchmetrics truncates instead, which darkens images that were bytes before they were normalized.
    """
    if images.dtype == torch.uint8:
        return images
    low, high = value_range
    return ((images.float() - low) * (255 / (high - low))).round().clamp(0, 255).to(torch.uint8)


def generated_bytes(images: Any, count: int, value_range: ValueRange) -> Tensor:
    """Check that a model returned ``count`` generated images, and return them as :func:`to_bytes` does.

    A generator may exceed ``value_range`` a little; its values are then clamped. Values that are further outside than
    the distance from black to white are refused as another range. NaN and infinity are accepted here, although bytes
    cannot hold them: the caller has to check for them.

    Raises:
        ValueError: another shape, dtype or range.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) != count:
        raise ValueError(f"asked for {count} samples, the model gave {describe(images)}; it has to give (n, C, H, W)")
    _check_values(images, value_range, "generated images", slack=value_range[1] - value_range[0])
    return to_bytes(images, value_range)


def _check_values(images: Tensor, value_range: ValueRange, what: str, slack: float) -> None:
    """Refuse dtypes that images cannot have, and finite values that are more than ``slack`` outside ``value_range``."""
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(
            f"{what} have dtype {images.dtype}; give floating point with black and white at value_range "
            f"{value_range}, or uint8 from 0 to 255"
        )
    finite = images[images.isfinite()]
    if not finite.numel():
        return
    low, high = value_range
    least, most = float(finite.min()), float(finite.max())
    if least < low - slack or most > high + slack:
        raise ValueError(
            f"{what} have values from {least:.4g} to {most:.4g}, beyond value_range {value_range}; give the values of "
            "black and white as value_range, or other images"
        )


class ImageFolder(Dataset[Tensor]):
    """All images in a folder and its subfolders, in the order of their paths, as uint8 RGB ``(3, H, W)``.

    Args:
        folder: holds images of one size, as :func:`~mn_lightning.utils.image_files.list_images` finds them.

    Raises:
        ValueError: if there are no images in ``folder``; when an image is read, if it has another size than the first
            one or :func:`~mn_lightning.utils.image_files.read_rgb` refuses it; names the image.
    """

    def __init__(self, folder: str | Path) -> None:
        root = Path(folder).expanduser()
        paths, left_out = list_images(root) if root.is_dir() else ([], [])
        if not paths:
            raise ValueError(f"{root} holds no images; it takes a folder with {', '.join(SUFFIXES)} files")
        if left_out and all_processes().rank == 0:
            warnings.warn(
                f"{root} holds {len(left_out)} files whose names are not those of images, such as {left_out[0]}; they "
                "are left out",
                stacklevel=2,
            )
        # Not a list: worker processes would copy many strings one by one, because reading one changes its reference
        # count.
        self.paths = np.array([os.fsencode(path) for path in paths])
        self.size = read_rgb(paths[0]).size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return one image."""
        path = os.fsdecode(self.paths[index])
        image = read_rgb(path)
        if image.size != self.size:
            raise ValueError(
                f"{path} has size {image.size}, the first image of its folder {self.size}; resize them to one size"
            )
        pixels: Tensor = v2.pil_to_tensor(image)
        return pixels


class RealImages:
    """The images of a DataLoader's dataset or of a folder, for reading in parts.

    Every image of the dataset counts once, whatever the loader's sampler, batch size and ``drop_last`` are.

    Args:
        source: a DataLoader over a dataset with a length, whose batches are images ``(N, C, H, W)`` or a tuple or list
            that starts with them, or the path of a folder of images.
        value_range: values of black and white in floating-point images.
        batch_size: images read at a time.

    Raises:
        ValueError: if ``source`` is neither; when images are read, if a batch holds no images, or values outside
            ``value_range``.
    """

    def __init__(self, source: DataLoader[Any] | str | Path, value_range: ValueRange, batch_size: int) -> None:
        self.value_range = value_range
        self._has_warned = False
        if isinstance(source, (str, Path)):
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

    def shape(self) -> tuple[int, int, int]:
        """Read the first image and return its shape ``(C, H, W)``."""
        channels, height, width = next(self._read([0])).shape[1:]
        return channels, height, width

    def batches(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """Return the images at ``indices`` in that order, as uint8 batches ``(N, C, H, W)`` on the CPU."""
        for images in self._read(indices):
            self._check(images)
            yield to_bytes(images, self.value_range).cpu()  # a data set can lie on a GPU

    def _read(self, indices: Sequence[int]) -> Iterator[Tensor]:
        # Lightning and users give loaders random or distributed samplers. The choice of images must not depend on them.
        for batch in DataLoader(self._dataset, sampler=indices, **self._options):
            images = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            if not isinstance(images, Tensor) or images.dim() != 4:
                raise ValueError(
                    f"a batch of real images has {describe(images)}; it takes images (N, C, H, W), or a tuple of them "
                    "and more"
                )
            yield images

    def _check(self, images: Tensor) -> None:
        low, high = self.value_range
        _check_values(images, self.value_range, "real images", slack=0.5 * (high - low) / 255)  # rounding errors
        if not images.is_floating_point():
            return
        if not images.isfinite().all():
            raise ValueError("real images have values that are not finite; mend or leave out those images")
        if low < 0 <= float(images.min()) and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"a batch of real images has no value below 0, where value_range {self.value_range} has black at "
                f"{low:g}; if black is at 0, give value_range=(0, {high:g})",
                stacklevel=2,
            )


def content_digest(batches: Iterable[Tensor], indices: Sequence[int]) -> Tensor:
    """Hash images by content and position; the digests of parts add up to the digest of the whole.

    Args:
        batches: images as ``(N, C, H, W)`` in the order of ``indices``.
        indices: positions of the images in the whole.

    Returns:
        int64 ``(4,)``; digests are added with overflow.
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
