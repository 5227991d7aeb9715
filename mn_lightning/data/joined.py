"""The labelled images of several tasks as one set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from mn_lightning.data.images import Batch, EpochKeys, Key, split_keys
from mn_lightning.utils.checks import sized_dataset


class Task(NamedTuple):
    """One of several classification problems with a common range of labels."""

    name: str
    labels: range


@dataclass(frozen=True)
class TaskImages:
    """The images of one task, read as the task's own DataLoader reads them.

    Args:
        task: its name, and the range that its labels ``0..num_classes - 1`` are moved to.
        dataset: has a length and maps a key to what ``collate`` takes a list of.
        collate: makes ``(images, labels)``, ``(N, C, H, W)`` and ``(N,)``.
        with_epoch: whether the keys are pairs of epoch and index, instead of indices.
    """

    task: Task
    dataset: Any
    collate: Callable[[Any], Any]
    with_epoch: bool

    @classmethod
    def of(cls, task: Task, loader: Any) -> "TaskImages":
        """Take the dataset of ``loader``, and leave its order and batch size.

        Raises:
            ValueError: if ``loader`` is no DataLoader over a dataset with a length.
        """
        dataset = sized_dataset(
            loader,
            lambda given: (
                f"the task {task.name} gives {given} as loader; MultiTaskDataModule takes one DataLoader over a "
                "dataset with a length"
            ),
        )
        return cls(task, dataset, loader.collate_fn, isinstance(loader.sampler, EpochKeys))

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, epoch: int, indices: list[int]) -> Any:
        """Return the batch that the task's loader would make of ``indices``."""
        if isinstance(self.dataset, TensorDataset) and self.collate is default_collate:
            return self.dataset[torch.tensor(indices)]  # the dataset's own way to read them at once
        keys: list[Any] = [(epoch, index) for index in indices] if self.with_epoch else indices
        if hasattr(self.dataset, "__getitems__"):
            return self.collate(self.dataset.__getitems__(keys))
        return self.collate([self.dataset[key] for key in keys])


class JoinedImages(Dataset[Batch]):
    """The images of several tasks, all as RGB, with each task's labels after those of the tasks before it.

    The tasks are interleaved in proportion: any part of this set, such as the few batches of a limited evaluation,
    holds about the same share of each task. Batches are assembled task by task, not image by image.

    Args:
        parts: the tasks in the order of their labels.
        image_size: height and width of all images in pixels.
    """

    def __init__(self, parts: Sequence[TaskImages], image_size: int) -> None:
        self.parts = parts
        self.image_size = image_size
        lengths = torch.tensor([len(part) for part in parts])
        part = torch.repeat_interleave(lengths)
        index = torch.cat([torch.arange(length) for length in lengths.tolist()])
        order = ((index + 0.5).double() / lengths[part]).argsort(stable=True)
        self._part, self._index = part[order], index[order]

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, key: Key) -> Batch:
        """Return one image ``(3, image_size, image_size)`` and its label ``()``."""
        images, labels = self.__getitems__([key])
        return images[0], labels[0]

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return a whole batch, ``(N, 3, image_size, image_size)`` and ``(N,)``, not to be collated again.

        Raises:
            ValueError: if a task's batch is not images and labels, the images are not floating point of one or three
                channels and of ``image_size``, or a label is beyond the task's number of classes.
        """
        epoch, positions = split_keys(keys)
        which, index = self._part[positions], self._index[positions]
        images = torch.empty(len(positions), 3, self.image_size, self.image_size)
        labels = torch.empty(len(positions), dtype=torch.int64)
        for number, part in enumerate(self.parts):
            rows = (which == number).nonzero().squeeze(1)
            if len(rows):
                images[rows], labels[rows] = self._rgb_and_moved(part.task, part.read(epoch, index[rows].tolist()))
        return images, labels

    def _rgb_and_moved(self, task: Task, batch: Any) -> Batch:
        parts = batch if isinstance(batch, (tuple, list)) else ()
        if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
            kinds = f" of {', '.join(type(part).__name__ for part in parts)}" if parts else ""
            raise ValueError(
                f"the task {task.name} gives batches that are a {type(batch).__name__}{kinds}; MultiTaskDataModule "
                "takes (images, labels), two tensors"
            )
        images, labels = parts
        size = self.image_size
        if not images.is_floating_point() or tuple(images.shape[1:]) not in ((1, size, size), (3, size, size)):
            raise ValueError(
                f"the task {task.name} gives images of {images.dtype} and shape {tuple(images.shape)}; "
                f"MultiTaskDataModule takes floating point (N, C, {size}, {size}) with 1 or 3 channels, give the task "
                "the same image_size"
            )
        if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() >= len(task.labels):
            raise ValueError(
                f"the task {task.name} gives labels of shape {tuple(labels.shape)} from {labels.min()} to "
                f"{labels.max()}; with its num_classes {len(task.labels)} it takes (N,) in 0..{len(task.labels) - 1}"
            )
        return images.float().expand(-1, 3, -1, -1), labels.long() + task.labels.start
