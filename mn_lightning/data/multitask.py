"""Several data sets as one classification problem."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from mn_lightning.data.digits import DigitsDataModule
from mn_lightning.data.files import idx_paths
from mn_lightning.data.images import EpochKeys, Loader, as_it_is
from mn_lightning.data.joined import JoinedImages, Task, TaskImages
from mn_lightning.data.sampler import EpochDataLoader, EpochShuffle, run_seed
from mn_lightning.data.vision import TorchvisionDataModule

TaskName = Literal["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN", "Digits"]


class MultiTaskDataModule(LightningDataModule):
    """Several image sets with mutually exclusive labels, mixed in every batch.

    By default Deecke et al.'s Section 4.1: MNIST, CIFAR-10, SVHN and Fashion-MNIST as one 40-way problem of 32x32 RGB
    images, 243,257 to train on and 56,032 to test on. The labels of each task follow those of the tasks before it.

    Batches are ``(images, labels)``: float32 ``(N, 3, image_size, image_size)`` and int64 ``(N,)``. Grey images get
    three equal channels. The images of all tasks come in one random order, which depends on seed and epoch alone.
    Evaluation reads all images of all tasks, interleaved in proportion to their number. The prediction loader gives the
    test batches.

    The paper says nothing about preprocessing. Here, all sets given by name have black at -1, white at 1, and are not
    augmented. Normalizing each set by its own mean and standard deviation would take away part of the difference
    between the tasks, which the experiment is about. It would also need to know the task of a test image.

    A data set can also be a LightningDataModule of your own. It needs ``num_classes``; ``train_dataloader``,
    ``val_dataloader`` and ``test_dataloader`` that each return one DataLoader over a dataset with a length; and batches
    of normalized images, float ``(N, C, image_size, image_size)`` with one or three channels, and labels ``(N,)`` in
    ``0..num_classes - 1``. ``prepare_data``, ``setup`` and ``teardown`` are called on it. The datasets and the
    collation of its loaders are used; their order, batch size and workers are not. If it augments by the global random
    state, a resumed run does not see the same images; with the modules of this package it does.

    Args:
        datasets: names or data modules, in the order of their labels. ``Digits`` stands for DigitsDataModule, the other
            names for TorchvisionDataModule, which then validates on the test images, as the paper does. To hold out
            training images instead, give a module with ``val_size``.
        root: folder of the files of the sets that are given by name.
        batch_size: images in a batch; the last one of an epoch can be smaller.
        image_size: height and width in pixels. Sets given by name are brought to this size; modules must have it.
        augment: shift the training images of TorchvisionDataModules given by name, and mirror them where it makes
            sense.
        num_workers: worker processes of each loader.
        download: download missing files of sets that are given by name.
        seed: passed to the sets that are given by name; decides, with ``seed_everything``'s seed and the epoch, order
            and augmentation of the training images.

    Raises:
        ValueError: if there is no data set or one of unknown name, ``image_size`` is too small for one, ``seed`` is
            negative, some modules have ``normalize="standard"`` and others ``"symmetric"``, or one ``on_device=True``.
    """

    in_channels: ClassVar[int] = 3

    def __init__(
        self,
        datasets: Sequence[TaskName | LightningDataModule] = ("MNIST", "CIFAR10", "SVHN", "FashionMNIST"),
        root: str = "data",
        batch_size: int = 128,
        image_size: int = 32,
        augment: bool = False,
        num_workers: int = 0,
        download: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not datasets or isinstance(datasets, str):
            raise ValueError(f"datasets is {datasets!r}; it takes a list of at least one name or data module")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it takes an integer >= 0")
        self.root = root
        self.batch_size = batch_size
        self.image_size = image_size
        self.augment = augment
        self.num_workers = num_workers
        self.download = download
        self.seed = seed
        self.datasets = tuple(self._module(dataset) for dataset in datasets)
        self._check_normalization()
        self._check_devices()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Name and range of labels of each task, known before the data is read; used for the accuracy on each task.

        Raises:
            ValueError: if a data module has no ``num_classes``.
        """
        tasks: list[Task] = []
        for name, module in zip(self._names, self.datasets, strict=True):
            num_classes = getattr(module, "num_classes", None)
            if not isinstance(num_classes, int):
                raise ValueError(
                    f"{type(module).__name__} has num_classes={num_classes!r}; a data set of MultiTaskDataModule needs "
                    "its number of classes there"
                )
            start = tasks[-1].labels.stop if tasks else 0
            tasks.append(Task(name, range(start, start + num_classes)))
        return tuple(tasks)

    @property
    def num_classes(self) -> int:
        """Number of classes of all tasks together, known before the data is read."""
        return self.tasks[-1].labels.stop

    def prepare_data(self) -> None:
        """Let each data set download what is missing."""
        for module in self.datasets:
            module.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Let each data set read its files.

        Raises:
            FileNotFoundError: if some are missing; names the files to download.
            ValueError: if MNIST and Fashion-MNIST, whose files have the same names, would be read from the same files.
        """
        self._check_files()
        for module in self.datasets:
            module.trainer = self.trainer
            module.setup(stage)  # type: ignore[arg-type]  # None, from outside a Trainer, means every stage

    def teardown(self, stage: str) -> None:
        """Let each data set clean up."""
        for module in self.datasets:
            module.teardown(stage)

    def train_dataloader(self) -> Loader:
        """Return the training batches; order and augmentation are a function of seed and epoch."""
        images = self._joined("train_dataloader")
        keys = EpochKeys(EpochShuffle(len(images), run_seed(self.seed)))
        return EpochDataLoader(
            images, batch_size=self.batch_size, sampler=keys, num_workers=self.num_workers, collate_fn=as_it_is
        )

    def val_dataloader(self) -> Loader:
        """Return the validation batches of all tasks."""
        return self._in_order("val_dataloader")

    def test_dataloader(self) -> Loader:
        """Return the test batches of all tasks."""
        return self._in_order("test_dataloader")

    def predict_dataloader(self) -> Loader:
        """Return the test batches."""
        return self.test_dataloader()

    @property
    def _names(self) -> list[str]:
        names: list[str] = []
        for module in self.datasets:
            dataset = getattr(module, "dataset", None)
            names.append(dataset if isinstance(dataset, str) else type(module).__name__.removesuffix("DataModule"))
        seen = [names[: i + 1].count(name) for i, name in enumerate(names)]
        return [name if count == 1 else f"{name} {count}" for name, count in zip(names, seen, strict=True)]

    def _module(self, dataset: TaskName | LightningDataModule) -> LightningDataModule:
        if isinstance(dataset, LightningDataModule):
            return dataset
        if dataset == "Digits":
            return DigitsDataModule(image_size=self.image_size, seed=self.seed, normalize="symmetric")
        if dataset not in get_args(TaskName):
            raise ValueError(
                f"datasets has {dataset!r}; it takes {', '.join(get_args(TaskName))}, or a LightningDataModule"
            )
        return TorchvisionDataModule(
            dataset,
            self.root,
            image_size=self.image_size,
            augment=self.augment,
            download=self.download,
            seed=self.seed,
            normalize="symmetric",
        )

    def _check_normalization(self) -> None:
        ways = [getattr(module, "normalize", None) for module in self.datasets]
        if {"standard", "symmetric"} <= {way for way in ways if isinstance(way, str)}:
            given = ", ".join(f"{name}: {way}" for name, way in zip(self._names, ways, strict=True))
            raise ValueError(
                f"datasets are normalized differently ({given}), which would tell them apart; give each module "
                "normalize='symmetric', which sets given by name have"
            )

    def _check_devices(self) -> None:
        for name, module in zip(self._names, self.datasets, strict=True):
            if getattr(module, "on_device", False):
                raise ValueError(
                    f"datasets has {name} with on_device=True; MultiTaskDataModule mixes its batches on the CPU, give "
                    "the module on_device=False"
                )

    def _check_files(self) -> None:
        owners: dict[Path, str] = {}
        for module in self.datasets:
            if isinstance(module, TorchvisionDataModule):
                for path in idx_paths(module.dataset, Path(module.root).expanduser(), train=True):
                    if owners.setdefault(path, module.dataset) != module.dataset:
                        raise ValueError(
                            f"MNIST and FashionMNIST would both be read from {path}; put each set's files into "
                            f"{path.parent / 'MNIST' / 'raw'} and {path.parent / 'FashionMNIST' / 'raw'}, or give one "
                            "as a TorchvisionDataModule with another root"
                        )

    def _joined(self, loader: str) -> JoinedImages:
        loaders: list[Any] = [getattr(module, loader)() for module in self.datasets]
        return JoinedImages([TaskImages.of(*pair) for pair in zip(self.tasks, loaders, strict=True)], self.image_size)

    def _in_order(self, loader: str) -> Loader:
        # By keyword: Lightning replaces the batch size when it predicts, which it cannot do with a positional one.
        return DataLoader(
            self._joined(loader), batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=as_it_is
        )
