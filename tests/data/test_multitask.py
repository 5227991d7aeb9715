"""The multi-task set against its parts: the files that were written, and the modules that read one set each."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import WRITERS, Written, some_split, trust_files, write_idx, write_image_folder, write_mnist
from lightning import LightningDataModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mn_lightning.__main__ import main
from mn_lightning.data import DigitsDataModule, ImageFolderDataModule, MultiTaskDataModule, TorchvisionDataModule

PAPER = ("MNIST", "CIFAR10", "SVHN", "FashionMNIST")
N_TRAIN = {"MNIST": 30, "CIFAR10": 20, "SVHN": 40, "FashionMNIST": 10}
N_TEST = {"MNIST": 6, "CIFAR10": 12, "SVHN": 9, "FashionMNIST": 3}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Written]:
    files = {name: WRITERS[name](tmp_path, N_TRAIN[name], N_TEST[name]) for name in PAPER}
    trust_files(tmp_path, monkeypatch)
    return files


def module(root: Path, **arguments: Any) -> MultiTaskDataModule:
    """The data module as a Trainer uses it."""
    data = MultiTaskDataModule(**{"root": str(root), "download": False, **arguments})
    data.prepare_data()
    data.setup()
    return data


def read(loader: DataLoader[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images).numpy(), torch.cat(labels).numpy()


def expect(images: np.ndarray, size: int) -> np.ndarray:
    """Bytes in the middle of a black square, from -1 to 1, three channels."""
    before = (size - images.shape[-1]) // 2
    after = size - images.shape[-1] - before
    padded = np.pad(images, [(0, 0), (0, 0), (before, after), (before, after)])
    return np.broadcast_to(padded / 127.5 - 1, (len(images), 3, size, size))


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_every_image_of_every_set_with_its_moved_label(
    split: str, size: int, written: dict[str, Written], tmp_path: Path
) -> None:
    loader = getattr(module(tmp_path, image_size=size), f"{split}_dataloader")()
    images, labels = loader.dataset.__getitems__(list(range(len(loader.dataset))))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    for number, name in enumerate(PAPER):
        original = written[name].train if split == "train" else written[name].test
        mine = labels // 10 == number
        np.testing.assert_array_equal(labels[mine].numpy(), original.labels + 10 * number)
        np.testing.assert_allclose(images[mine].numpy(), expect(original.images, size), atol=1e-6)


def test_what_is_known_before_the_data() -> None:
    data = MultiTaskDataModule(root="nowhere")
    assert (data.num_classes, data.in_channels) == (40, 3)
    assert [(name, labels.start, labels.stop) for name, labels in data.tasks] == [
        ("MNIST", 0, 10),
        ("CIFAR10", 10, 20),
        ("SVHN", 20, 30),
        ("FashionMNIST", 30, 40),
    ]
    data = MultiTaskDataModule(["Digits", "CIFAR100", "Digits", TorchvisionDataModule("SVHN", normalize="symmetric")])
    assert data.num_classes == 130
    assert [name for name, _ in data.tasks] == ["Digits", "CIFAR100", "Digits 2", "SVHN"]
    assert [labels.start for _, labels in data.tasks] == [0, 10, 110, 120]


def test_batches_mix_the_tasks_and_hold_every_image_once(written: dict[str, Written], tmp_path: Path) -> None:
    data = module(tmp_path, batch_size=16)
    loader = data.train_dataloader()
    batches = [labels // 10 for _, labels in loader]
    assert [len(tasks) for tasks in batches] == [16] * 6 + [4]
    assert torch.bincount(torch.cat(batches)).tolist() == [30, 20, 40, 10]
    assert all(len(tasks.unique()) >= 3 for tasks in batches[:-1])
    assert sorted(index for _, index in loader.sampler) == list(range(100))


def test_the_training_order_is_a_function_of_seeds_and_epoch(
    written: dict[str, Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(seed: int, run_seed: int, epoch: int) -> tuple[int, ...]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(run_seed))
        torch.manual_seed(np.random.default_rng().integers(1000))
        loader = module(tmp_path, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return tuple(read(loader)[1].tolist())

    orders = {key: order(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 1)]}
    assert len(set(orders.values())) == 4
    assert order(0, 2, 0) == orders[0, 2, 0]
    keys = list(module(tmp_path, seed=3).train_dataloader().sampler)
    assert keys == [(0, index) for index in np.random.default_rng((3 + 2, 0)).permutation(100)]


def test_any_stretch_of_the_evaluation_has_all_tasks_in_proportion(written: dict[str, Written], tmp_path: Path) -> None:
    _, labels = read(module(tmp_path, batch_size=7).test_dataloader())
    shares = np.array([N_TEST[name] for name in PAPER]) / 30
    for stop in range(1, 31):
        assert np.abs(np.bincount(labels[:stop] // 10, minlength=4) - shares * stop).max() <= 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_augmented_as_by_each_sets_own_module(
    num_workers: int, written: dict[str, Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    data = module(tmp_path, augment=True, seed=1, num_workers=num_workers)
    loader = data.train_dataloader()
    epochs = []
    for epoch in (1, 2):
        loader.sampler.set_epoch(epoch)
        images, labels = (part[np.argsort([index for _, index in loader.sampler])] for part in read(loader))
        epochs.append(images)
        for number, name in enumerate(PAPER):
            alone = TorchvisionDataModule(name, str(tmp_path), download=False, seed=1, normalize="symmetric")
            alone.setup()
            expected, _ = alone.train.__getitems__([(epoch, index) for index in range(N_TRAIN[name])])
            mine = labels // 10 == number
            np.testing.assert_array_equal(images[mine], np.broadcast_to(expected.numpy(), images[mine].shape))
    assert np.mean([np.array_equal(*pair) for pair in zip(*epochs, strict=True)]) < 0.1


def test_sets_given_by_name_are_not_augmented(written: dict[str, Written], tmp_path: Path) -> None:
    images = module(tmp_path).train_dataloader().dataset
    assert torch.equal(images[0, 5][0], images[4, 5][0])


class Numbers(Dataset[tuple[Tensor, int]]):
    """Images of one value, read one by one."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 8, 8), index / 10, dtype=torch.float64), index % 2


class Own(LightningDataModule):
    """A module of a user's, which notes what is asked of it."""

    num_classes: Any = 2

    def __init__(self, dataset: Any = None) -> None:
        super().__init__()
        self.images = Numbers() if dataset is None else dataset
        self.asked: list[str] = []

    def prepare_data(self) -> None:
        self.asked.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.asked += ["setup", stage, "with trainer" if self.trainer else "alone"]

    def teardown(self, stage: str) -> None:
        self.asked += ["teardown", stage]

    def test_dataloader(self) -> Any:
        return DataLoader(self.images, batch_size=3, shuffle=True)


def test_a_module_of_ones_own() -> None:
    own = Own()
    data = MultiTaskDataModule(["Digits", own], image_size=8)
    data.setup()
    digits = DigitsDataModule(image_size=8, normalize="symmetric")
    digits.setup()
    images, labels = (torch.from_numpy(part) for part in read(data.test_dataloader()))
    assert torch.equal(labels[labels >= 10], torch.tensor([10, 11, 10, 11, 10]))
    torch.testing.assert_close(images[labels >= 10][:, 2, 3, 4], torch.tensor([0, 0.1, 0.2, 0.3, 0.4]))
    expected_images, expected_labels = digits.test.tensors
    assert torch.equal(images[labels < 10], expected_images.expand(-1, 3, -1, -1))
    assert torch.equal(labels[labels < 10], expected_labels)


def test_hooks_reach_every_data_set() -> None:
    own, other = Own(), Own()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    model = BoringModel()
    model.test_step = lambda batch: {"y": batch[1].float().mean()}  # type: ignore[method-assign]
    trainer.test(model, datamodule=MultiTaskDataModule([own, other], image_size=8), verbose=False)
    assert own.asked == other.asked == ["prepare_data", "setup", "test", "with trainer", "teardown", "test"]


def batch_of(data: MultiTaskDataModule) -> None:
    next(iter(data.test_dataloader()))


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (TensorDataset(torch.zeros(4, 1, 9, 9), torch.zeros(4).long()), r"images of torch.float32 and shape \(4, 1, 9"),
        (TensorDataset(torch.zeros(4, 2, 8, 8), torch.zeros(4).long()), r"shape \(4, 2, 8, 8\); .* 1 or 3 channels"),
        (TensorDataset(torch.zeros(4, 3, 8, 8).byte(), torch.zeros(4).long()), "images of torch.uint8"),
        (
            TensorDataset(torch.zeros(2, 3, 8, 8), torch.arange(1, 3)),
            r"from 1 to 2; with its num_classes 2 .* in 0..1$",
        ),
        (TensorDataset(torch.zeros(2, 3, 8, 8), torch.arange(-1, 1)), "from -1 to 0; "),
        (TensorDataset(torch.zeros(2, 3, 8, 8), torch.eye(2)), r"labels of shape \(2, 2\)"),
        (TensorDataset(torch.zeros(2, 3, 8, 8)), r"batches that are a tuple of Tensor; .* takes \(images, labels\)"),
        ([{"image": torch.zeros(3, 8, 8)}], "batches that are a dict; "),
    ],
)
def test_batches_that_cannot_be_joined(dataset: Any, words: str) -> None:
    data = MultiTaskDataModule([Own(dataset)], image_size=8)
    with pytest.raises(ValueError, match=f"^the task Own gives {words}" if words[0] == "b" else words) as error:
        batch_of(data)
    assert "\n" not in str(error.value)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(())


@pytest.mark.parametrize(
    ("loader", "words"),
    [(DataLoader(Stream()), "a loader of Stream"), ([DataLoader(Numbers())], "<class 'list'>")],
)
def test_loaders_that_cannot_be_joined(loader: Any, words: str) -> None:
    own = Own()
    own.test_dataloader = lambda: loader  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=f"^the task Own gives {words} as loader; .* takes one DataLoader over a data"):
        MultiTaskDataModule([own]).test_dataloader()


def test_a_module_that_does_not_tell_its_number_of_classes() -> None:
    own = Own()
    own.num_classes = None
    with pytest.raises(ValueError, match=r"^Own has num_classes=None; .* needs its number of classes"):
        _ = MultiTaskDataModule(["Digits", own]).num_classes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"datasets": []}, r"^datasets is \[\]; it takes a list of at least one"),
        ({"datasets": "MNIST"}, "^datasets is 'MNIST'; it takes a list"),
        ({"datasets": ["MNIST", "Imagenet"]}, "^datasets has 'Imagenet'; it takes CIFAR10, .*, Digits, or a Lightning"),
        ({"seed": -1}, "^seed is -1; it takes an integer >= 0$"),
        ({"image_size": 30}, "^image_size is 30; CIFAR10 has images of 32 pixels"),
        (
            {"datasets": ["MNIST", DigitsDataModule()]},
            r"^datasets are normalized differently \(MNIST: symmetric, Digits: standard\), .*='symmetric'",
        ),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MultiTaskDataModule(**arguments)


def test_modules_may_all_be_normalized_by_their_own_mean() -> None:
    modules = [DigitsDataModule(), TorchvisionDataModule("MNIST"), Own()]
    assert MultiTaskDataModule(modules).num_classes == 22


def test_a_missing_set_is_named_before_training(written: dict[str, Written], tmp_path: Path) -> None:
    (tmp_path / "test_32x32.mat").unlink()
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(FileNotFoundError, match=r"^SVHN is not in .*; put http.*train_32x32.mat and ") as error:
        trainer.fit(BoringModel(), datamodule=MultiTaskDataModule(root=str(tmp_path), download=False))
    assert "\n" not in str(error.value)
    assert trainer.global_step == 0


def test_one_set_is_not_taken_for_two(tmp_path: Path) -> None:
    split = some_split("MNIST", 10, 0)
    write_idx(tmp_path, split, split, ".gz")
    with pytest.raises(ValueError, match=r"^MNIST and FashionMNIST would both be read from .*-ubyte.gz; put ") as error:
        module(tmp_path, datasets=["FashionMNIST", "MNIST"])
    assert "\n" not in str(error.value)
    module(tmp_path, datasets=["FashionMNIST", "Digits"])
    write_mnist(tmp_path, 30, 6)
    assert len(module(tmp_path, datasets=["FashionMNIST", "MNIST"]).train_dataloader().dataset) == 40


def test_what_is_missing_is_fetched_and_the_rest_is_not(
    written: dict[str, Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(request: urllib.request.Request, *_: Any, **__: Any) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    MultiTaskDataModule(root=str(tmp_path)).prepare_data()
    assert asked == []
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(RuntimeError, match=r"^downloading CIFAR10 failed "):
        MultiTaskDataModule(root=str(tmp_path)).prepare_data()
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]


def test_from_the_command_line(
    written: dict[str, Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "multitask.yaml").write_text(
        """
model:
  class_path: ImageClassifier
  init_args:
    network: LeNet
    num_classes: 40
data:
  class_path: MultiTaskDataModule
  init_args:
    root: .
    datasets:
      - MNIST
      - class_path: TorchvisionDataModule
        init_args: {dataset: SVHN, root: ., download: false, val_size: 4, normalize: symmetric}
      - DigitsDataModule
      - FashionMNIST
    batch_size: 16
trainer:
  fast_dev_run: true
  enable_progress_bar: false
"""
    )
    with pytest.raises(SystemExit, match="2"):
        main(["fit", "--config", "multitask.yaml"])
    assert "SVHN: symmetric, Digits: standard" in capsys.readouterr().err
    main(["fit", "--config", "multitask.yaml", "--data.datasets=[MNIST, Digits]"])


def test_the_papers_set_by_the_name_of_the_module_alone(
    written: dict[str, Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model=ImageClassifier", "--model.network=LeNet", "--model.num_classes=40"]
    main(["test", *model, "--data=MultiTaskDataModule", "--data.root=.", "--trainer.enable_progress_bar=false"])
    assert "test_acc" in capsys.readouterr().out


def test_a_folder_of_images_as_a_task(tmp_path: Path) -> None:
    write_image_folder(tmp_path)
    folder = ImageFolderDataModule(str(tmp_path), image_size=32, num_workers=0, normalize="symmetric")
    data = MultiTaskDataModule(["Digits", folder])
    data.setup()
    assert data.num_classes == 12
    images = data.train_dataloader().dataset
    keys = [(2, index) for index in range(len(images))]
    batch, labels = images.__getitems__(keys)
    expected, expected_labels = folder.train.__getitems__(keys[:6])
    assert torch.equal(batch[labels >= 10], expected)
    assert torch.equal(labels[labels >= 10] - 10, expected_labels)
