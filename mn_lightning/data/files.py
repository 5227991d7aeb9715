"""The files of each image set: where they come from, and how to read them."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from mn_lightning.data.idx import find_idx, read_idx

DatasetName = Literal["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN"]

_IDX_NAMES = {
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def download(name: DatasetName, root: Path) -> None:
    """Download the files of ``name`` that are not under ``root`` yet, and check their md5 sums.

    Raises:
        RuntimeError: if that fails; names the files to download by hand.
    """
    if all(idx_paths(name, root, train) for train in (True, False)):
        return
    try:
        for train in (True, False):
            _open(name, root, train, download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(f"downloading {name} failed ({reason}); {_advice(name, root)}") from error


def load(name: DatasetName, root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Read the training or the test images of ``name``.

    Returns:
        Images, uint8 ``(N, C, H, W)``, and labels, int64 ``(N,)``.

    Raises:
        FileNotFoundError: if a file is missing or has another md5 sum; names the files to download.
        ValueError: if an idx file is damaged, or does not hold one label for each image.
    """
    if name in ("MNIST", "FashionMNIST"):
        paths = idx_paths(name, root, train)
        if not paths:
            raise FileNotFoundError(f"{name} is not in {root}; {_advice(name, root)}")
        images, labels = (read_idx(path) for path in paths)
        if images.dim() != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{paths[0]} and {paths[1]} have shapes {tuple(images.shape)} and {tuple(labels.shape)}; they take "
                "(N, height, width) and (N,), fetch both again"
            )
        return images.unsqueeze(1), labels.long()
    try:
        data = _open(name, root, train)
    except RuntimeError as error:  # torchvision's error for missing files and wrong md5 sums
        raise FileNotFoundError(f"{name} is not in {root}, or damaged; {_advice(name, root)}") from error
    if name == "SVHN":
        return torch.from_numpy(np.ascontiguousarray(data.data)), torch.from_numpy(data.labels)
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


def idx_paths(name: DatasetName, root: Path, train: bool) -> list[Path]:
    """Return the paths of images and labels: in torchvision's folder, whose name tells the set, or else in ``root``.

    The list is empty if the files are not there, or the set has another format.
    """
    if name not in ("MNIST", "FashionMNIST"):
        return []
    for folder in (root / name / "raw", root):
        paths = [path for file in _IDX_NAMES[train] if (path := find_idx(folder, file))]
        if len(paths) == 2:
            return paths
    return []


def _open(name: DatasetName, root: Path, train: bool, download: bool = False) -> Any:
    dataset_class = getattr(datasets, name)
    if name == "SVHN":
        return dataset_class(root, split="train" if train else "test", download=download)
    return dataset_class(root, train=train, download=download)


def _advice(name: DatasetName, root: Path) -> str:
    dataset_class = getattr(datasets, name)
    if name == "SVHN":
        urls = " and ".join(dataset_class.split_list[split][0] for split in ("train", "test"))
        task = f"put {urls} into {root}"
    elif name in ("MNIST", "FashionMNIST"):
        files = ", ".join(f"{file}.gz" for train in (True, False) for file in _IDX_NAMES[train])
        task = f"put {files} from {dataset_class.mirrors[0]} into {root / name / 'raw'} or {root}"
    else:
        task = f"unpack {dataset_class.url} to {root / dataset_class.base_folder}"
    return f"{task}, or pass download=True where there is internet access"
