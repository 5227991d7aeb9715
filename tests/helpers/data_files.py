"""Small image sets in the on-disk format of each, with random content, for tests that read them.

Every writer takes the folder that a data module is given as ``root``, and the number of training and test images. Sets
may share a folder. Where torchvision compares md5 sums, call :func:`trust_files` after writing: the files are then read
with ``download=False``, and are complete for ``download=True``, which does not look for a network.
"""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

N_CLASSES = {"CIFAR10": 10, "CIFAR100": 100, "MNIST": 10, "FashionMNIST": 10, "SVHN": 10}


class Split(NamedTuple):
    """Images uint8 ``(N, C, H, W)`` and labels ``(N,)``, as they are to be read."""

    images: np.ndarray
    labels: np.ndarray


class Written(NamedTuple):
    root: Path
    train: Split
    test: Split


def some_split(name: str, count: int, seed: int) -> Split:
    """Random images; the first labels are 0 and the last class."""
    rng = np.random.default_rng(seed)
    shape = (count, 1, 28, 28) if "MNIST" in name else (count, 3, 32, 32)
    labels = rng.integers(0, N_CLASSES[name], count)
    labels[:1], labels[1:2] = 0, N_CLASSES[name] - 1
    return Split(rng.integers(0, 256, shape, dtype=np.uint8), labels)


def write_cifar10(root: Path, n_train: int = 40, n_test: int = 12) -> Written:
    """Rows of 3072 bytes, red first, and a list of labels; the training set in five files."""
    train, test = some_split("CIFAR10", n_train, 0), some_split("CIFAR10", n_test, 1)
    folder = root / "cifar-10-batches-py"
    parts = zip(np.array_split(train.images, 5), np.array_split(train.labels, 5), strict=True)
    for i, part in enumerate(parts, 1):
        _write_cifar(folder / f"data_batch_{i}", "labels", *part)
    _write_cifar(folder / "test_batch", "labels", *test)
    _dump(folder / "batches.meta", {"label_names": [str(i) for i in range(10)]})
    return Written(root, train, test)


def write_cifar100(root: Path, n_train: int = 40, n_test: int = 12) -> Written:
    """As CIFAR-10, with one file for each split and another key for the labels."""
    train, test = some_split("CIFAR100", n_train, 0), some_split("CIFAR100", n_test, 1)
    folder = root / "cifar-100-python"
    _write_cifar(folder / "train", "fine_labels", *train)
    _write_cifar(folder / "test", "fine_labels", *test)
    _dump(folder / "meta", {"fine_label_names": [str(i) for i in range(100)]})
    return Written(root, train, test)


def write_svhn(root: Path, n_train: int = 40, n_test: int = 12) -> Written:
    """``X`` of shape (height, width, channel, N), and ``y`` of shape (N, 1) with 10 for the digit 0."""
    root.mkdir(parents=True, exist_ok=True)
    train, test = some_split("SVHN", n_train, 0), some_split("SVHN", n_test, 1)
    for split, (images, labels) in (("train", train), ("test", test)):
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(root / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": y})
    return Written(root, train, test)


def write_mnist(root: Path, n_train: int = 40, n_test: int = 12) -> Written:
    """Four idx files in torchvision's folder."""
    return _write_idx_set("MNIST", root, n_train, n_test)


def write_fashion_mnist(root: Path, n_train: int = 40, n_test: int = 12) -> Written:
    """Four idx files in torchvision's folder."""
    return _write_idx_set("FashionMNIST", root, n_train, n_test)


def write_idx(folder: Path, train: Split, test: Split, suffix: str) -> None:
    """The four files of MNIST or Fashion-MNIST directly in ``folder``; ``suffix`` is empty or ``.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        image_bytes = struct.pack(">4I", 0x0803, len(images), 28, 28) + images.tobytes()
        label_bytes = struct.pack(">2I", 0x0801, len(labels)) + labels.astype(np.uint8).tobytes()
        for kind, content in (("images-idx3", image_bytes), ("labels-idx1", label_bytes)):
            packed = gzip.compress(content) if suffix else content
            (folder / f"{prefix}-{kind}-ubyte{suffix}").write_bytes(packed)


def write_image_folder(
    root: Path,
    n_train: int = 6,
    n_test: int = 4,
    classes: tuple[str, ...] = ("n01440764", "n01443537"),
    suffix: str = ".JPEG",
) -> None:
    """``train`` and ``val`` as ImageNet has them: dealt out to the classes in turn, no two images of one size.

    As in ImageNet, an image is sometimes grey or CMYK.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", n_train), ("val", n_test)):
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40 + i, 60 - i % 30, 3), dtype=np.uint8)
            mode = "RGB" if suffix == ".png" else ("RGB", "L", "CMYK")[i % 3]
            path = root / split / classes[i % len(classes)] / f"{split}_{i:08d}{suffix}"
            Image.fromarray(pixels).convert(mode).save(path)


WRITERS: dict[str, Callable[[Path, int, int], Written]] = {
    "CIFAR10": write_cifar10,
    "CIFAR100": write_cifar100,
    "MNIST": write_mnist,
    "FashionMNIST": write_fashion_mnist,
    "SVHN": write_svhn,
}


def trust_files(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Have torchvision expect the md5 sums of the files that are in ``root`` now, in place of the originals'.

    Sums of files that are not there stay as they are. This holds for one folder at a time, in this process.
    """
    for dataset in (datasets.CIFAR10, datasets.CIFAR100):
        folder = root / dataset.base_folder
        for table in ("train_list", "test_list"):
            rows = [[file, _md5(folder / file, checksum)] for file, checksum in getattr(dataset, table)]
            patch.setattr(dataset, table, rows)
        checksum = _md5(folder / dataset.meta["filename"], dataset.meta["md5"])
        patch.setattr(dataset, "meta", {**dataset.meta, "md5": checksum})
    splits = {
        split: [url, file, _md5(root / file, checksum)]
        for split, (url, file, checksum) in datasets.SVHN.split_list.items()
    }
    patch.setattr(datasets.SVHN, "split_list", splits)


def _write_idx_set(name: str, root: Path, n_train: int, n_test: int) -> Written:
    train, test = some_split(name, n_train, 0), some_split(name, n_test, 1)
    write_idx(root / name / "raw", train, test, "")
    return Written(root, train, test)


def _write_cifar(path: Path, key: str, images: np.ndarray, labels: np.ndarray) -> None:
    _dump(path, {"data": images.reshape(-1, 3072), key: labels.tolist()})


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def _md5(path: Path, otherwise: str) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else otherwise
