"""The vision sets, read from small files in the format of each set."""

import functools
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import N_CLASSES, WRITERS, Split, Written, some_split, trust_files, write_idx
from lightning import Trainer
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets

from mn_lightning.data import TorchvisionDataModule

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
N_TRAIN, N_TEST = 40, 12
NAMES = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "SVHN")
MIRRORED = {"CIFAR10": True, "CIFAR100": True, "MNIST": False, "FashionMNIST": True, "SVHN": False}
NORMALIZATION = {
    "CIFAR10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "MNIST": ((0.1307,), (0.3081,)),
    "FashionMNIST": ((0.2860,), (0.3530,)),
    "SVHN": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


Write = Callable[[str], Written]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a set to a folder, with torchvision expecting the md5 sums of these files."""

    def _write(name: str) -> Written:
        written = WRITERS[name](tmp_path, N_TRAIN, N_TEST)
        trust_files(tmp_path, monkeypatch)
        return written

    return _write


def module(name: str, root: Path, **arguments: Any) -> TorchvisionDataModule:
    """The data module as a Trainer uses it."""
    data = TorchvisionDataModule(name, str(root), **{"download": False, **arguments})
    data.prepare_data()
    data.setup("fit")
    return data


def read(loader: DataLoader[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images).numpy(), torch.cat(labels).numpy()


def expect(name: str, images: np.ndarray, size: int) -> np.ndarray:
    before = (size - images.shape[-1]) // 2
    after = size - images.shape[-1] - before
    padded = np.pad(images, [(0, 0), (0, 0), (before, after), (before, after)])
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in NORMALIZATION[name])
    return (padded / 255 - mean) / std


@pytest.mark.parametrize("name", NAMES)
def test_reads_each_set(name: str, write: Write) -> None:
    written = write(name)
    data = module(name, written.root, batch_size=16, augment=False)

    images, labels = read(data.test_dataloader())
    np.testing.assert_allclose(images, expect(name, written.test.images, 32), atol=1e-5)
    np.testing.assert_array_equal(labels, written.test.labels)

    loader = data.train_dataloader()
    order = [index for _, index in loader.sampler]
    assert sorted(order) == list(range(N_TRAIN))
    images, labels = read(loader)
    np.testing.assert_allclose(images, expect(name, written.train.images[order], 32), atol=1e-5)
    np.testing.assert_array_equal(labels, written.train.labels[order])


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_from_black_at_minus_1_to_white_at_1(name: str, augment: bool, write: Write) -> None:
    written = write(name)
    data = module(name, written.root, normalize="symmetric", augment=augment, val_size=8)
    standard = module(name, written.root, augment=augment, val_size=8)
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in NORMALIZATION[name])
    loaders = [(each.train_dataloader(), each.val_dataloader(), each.test_dataloader()) for each in (data, standard)]
    for loader, of_standard in zip(*loaders, strict=True):
        (images, labels), (expected, expected_labels) = read(loader), read(of_standard)
        np.testing.assert_allclose(images, (expected * std + mean) * 2 - 1, atol=1e-5)
        np.testing.assert_array_equal(labels, expected_labels)
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (-1, 1)


def test_another_normalization() -> None:
    with pytest.raises(ValueError, match=r"^TorchvisionDataModule got normalize='unit'; it takes one of 'standard', "):
        TorchvisionDataModule("MNIST", normalize="unit")


@pytest.mark.parametrize("name", NAMES)
def test_batches(name: str, write: Write) -> None:
    data = module(name, write(name).root, batch_size=16)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        images, labels = next(iter(loader))
        size = min(16, len(loader.dataset))
        assert (images.shape, images.dtype) == ((size, data.in_channels, 32, 32), torch.float32)
        assert (labels.shape, labels.dtype) == ((size,), torch.int64)
    assert [len(labels) for _, labels in data.train_dataloader()] == [16, 16, 8]
    assert data.num_classes == N_CLASSES[name]


@pytest.mark.parametrize(("name", "size"), [("MNIST", 28), ("MNIST", 29), ("CIFAR10", 36)])
def test_smaller_originals_get_a_black_border(name: str, size: int, write: Write) -> None:
    written = write(name)
    data = module(name, written.root, image_size=size)
    images, _ = read(data.test_dataloader())
    np.testing.assert_allclose(images, expect(name, written.test.images, size), atol=1e-5)


def test_a_smaller_last_batch_can_be_left_out(write: Write) -> None:
    """In training alone, and other images in each epoch."""
    data = module("CIFAR10", write("CIFAR10").root, batch_size=16, augment=False, drop_last=True)
    assert N_TRAIN % 16
    loader = data.train_dataloader()
    seen = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [16] * (N_TRAIN // 16)
        seen.append(torch.cat([images for images, _ in batches]).sum())
    assert seen[0] != seen[1]
    assert sum(len(labels) for _, labels in data.test_dataloader()) == len(data.test)


def test_number_of_classes_and_channels_are_known_before_the_data() -> None:
    data = TorchvisionDataModule("CIFAR100", "nowhere")
    assert (data.num_classes, data.in_channels) == (100, 3)
    data = TorchvisionDataModule("MNIST", "nowhere")
    assert (data.num_classes, data.in_channels) == (10, 1)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_directly_in_the_folder(tmp_path: Path, suffix: str) -> None:
    train, test = some_split("MNIST", N_TRAIN, 0), some_split("MNIST", N_TEST, 1)
    write_idx(tmp_path, train, test, suffix)
    for name in ("MNIST", "FashionMNIST"):
        images, labels = read(module(name, tmp_path).test_dataloader())
        np.testing.assert_allclose(images, expect(name, test.images, 32), atol=1e-5)
        np.testing.assert_array_equal(labels, test.labels)


def test_files_in_torchvisions_folder_come_first(tmp_path: Path) -> None:
    train, test, other = (some_split("MNIST", N_TRAIN, seed) for seed in range(3))
    write_idx(tmp_path, other, other, ".gz")
    write_idx(tmp_path / "MNIST" / "raw", train, test, ".gz")
    assert read(module("MNIST", tmp_path).test_dataloader())[1].tolist() == test.labels.tolist()
    assert read(module("FashionMNIST", tmp_path).test_dataloader())[1].tolist() == other.labels.tolist()


def test_the_home_folder_can_be_written_as_a_tilde(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(write("SVHN").root))
    assert len(module("SVHN", Path("~")).test) == N_TEST


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_original_fashion_mnist() -> None:
    data = module("FashionMNIST", FASHION_MNIST, augment=False, image_size=28)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [6_000] * 10
    pixels = data.train.images.numpy()
    assert round(float(pixels.mean()) / 255, 4) == 0.2860
    assert round(float(pixels.std()) / 255, 4) == 0.3530


def candidates(image: np.ndarray, mirrored: bool) -> Iterator[np.ndarray]:
    """All that shifting by up to 4 pixels over a black border makes of ``image``, ``(C, H, W)``."""
    size = image.shape[-1]
    bordered = np.pad(image, [(0, 0), (4, 4), (4, 4)])
    for top in range(9):
        for left in range(9):
            crop = bordered[:, top : top + size, left : left + size]
            yield crop[:, :, ::-1] if mirrored else crop


def unnormalize(name: str, images: Tensor) -> np.ndarray:
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in NORMALIZATION[name])
    return np.rint((images.numpy() * std + mean) * 255).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_training_images_are_shifted_and_some_mirrored(name: str, write: Write) -> None:
    written = write(name)
    data = module(name, written.root, image_size=32, batch_size=N_TRAIN)
    border = (32 - written.train.images.shape[-1]) // 2
    originals = np.pad(written.train.images, [(0, 0), (0, 0), (border, border), (border, border)])

    loader = data.train_dataloader()
    order = [index for _, index in loader.sampler]
    images, labels = next(iter(loader))
    np.testing.assert_array_equal(labels.numpy(), written.train.labels[order])

    n_mirrored = n_moved = 0
    for image, original in zip(unnormalize(name, images), originals[order], strict=True):
        as_is, mirrored = (
            any(np.array_equal(image, candidate) for candidate in candidates(original, flip)) for flip in (False, True)
        )
        assert as_is != mirrored
        n_mirrored += mirrored
        n_moved += not np.array_equal(image, original)
    assert n_moved > N_TRAIN / 2
    if MIRRORED[name]:
        assert 0.2 * N_TRAIN < n_mirrored < 0.8 * N_TRAIN
    else:
        assert n_mirrored == 0


def test_augmentation_changes_with_the_epoch(write: Write) -> None:
    loader = module("CIFAR10", write("CIFAR10").root, batch_size=N_TRAIN).train_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        images, _ = read(loader)
        by_index = np.argsort([index for _, index in loader.sampler])
        epochs.append(images[by_index])
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert sum(np.array_equal(*pair) for pair in zip(epochs[0], epochs[1], strict=True)) < N_TRAIN / 4


def test_order_and_augmentation_differ_by_seed(write: Write) -> None:
    root = write("SVHN").root
    first, second = (module("SVHN", root, seed=seed) for seed in (0, 1))
    assert list(first.train_dataloader().sampler) != list(second.train_dataloader().sampler)
    assert not torch.equal(first.train[0, 3][0], second.train[0, 3][0])


@pytest.mark.parametrize("augment", [True, False])
def test_training_batches_depend_on_neither_global_random_state_nor_workers(augment: bool, write: Write) -> None:
    root = write("SVHN").root

    def batches(global_seed: int, num_workers: int) -> np.ndarray:
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        data = module("SVHN", root, augment=augment, batch_size=7, num_workers=num_workers, val_size=5)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        return read(loader)[0]

    np.testing.assert_array_equal(batches(0, 0), batches(1, 2))


def held_out(data: TorchvisionDataModule, train: Split) -> list[int]:
    """Positions in the training file of the validation images, found by their pixels."""
    position = {image.tobytes(): index for index, image in enumerate(train.images)}
    return [position[image.tobytes()] for image in data.val.images.numpy()]


@pytest.mark.parametrize("val_size", [1, 15, N_TRAIN - 1])
def test_held_out_images_are_not_trained_on(val_size: int, write: Write) -> None:
    written = write("CIFAR10")
    data = module("CIFAR10", written.root, val_size=val_size)
    val = held_out(data, written.train)
    position = {image.tobytes(): index for index, image in enumerate(written.train.images)}
    train = [position[image.tobytes()] for image in data.train.images.numpy()]
    assert len(val) == val_size
    assert sorted(val + train) == list(range(N_TRAIN))
    assert data.val.labels.tolist() == written.train.labels[val].tolist()
    assert data.train.labels.tolist() == written.train.labels[train].tolist()
    assert len(read(data.train_dataloader())[1]) == N_TRAIN - val_size


def test_the_split_is_a_function_of_the_seed(write: Write) -> None:
    written = write("CIFAR10")

    def split(seed: int) -> list[int]:
        return held_out(module("CIFAR10", written.root, val_size=15, seed=seed), written.train)

    first = split(0)
    torch.manual_seed(1)
    np.random.seed(1)
    assert split(0) == first
    assert sorted(split(1)) != sorted(first)


def test_validation_images_are_not_augmented(write: Write) -> None:
    written = write("CIFAR10")
    data = module("CIFAR10", written.root, val_size=15)
    expected = expect("CIFAR10", written.train.images[held_out(data, written.train)], 32)
    np.testing.assert_allclose(read(data.val_dataloader())[0], expected, atol=1e-5)


def test_without_held_out_images_the_test_set_validates(write: Write) -> None:
    written = write("CIFAR10")
    data = module("CIFAR10", written.root)
    images, labels = read(data.val_dataloader())
    np.testing.assert_allclose(images, expect("CIFAR10", written.test.images, 32), atol=1e-5)
    np.testing.assert_array_equal(labels, written.test.labels)
    assert len(data.train) == N_TRAIN


@pytest.mark.parametrize("epoch", [0, 3])
def test_two_processes_train_on_every_image_once(epoch: int, write: Write) -> None:
    data = module("CIFAR10", write("CIFAR10").root)
    dealt = []
    for rank in (0, 1):
        loader = data.train_dataloader()
        wrapper = DistributedSamplerWrapper(loader.sampler, num_replicas=2, rank=rank, shuffle=True)
        wrapper.set_epoch(epoch)
        loader = type(loader)(data.train, batch_size=6, sampler=wrapper, collate_fn=loader.collate_fn)
        dealt += [image.tobytes() for image in read(loader)[0]]
    images, _ = data.train.__getitems__([(epoch, index) for index in range(N_TRAIN)])
    assert sorted(dealt) == sorted(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"dataset": "cifar10"},
            "dataset is 'cifar10'; it takes one of CIFAR10, CIFAR100, MNIST, FashionMNIST, SVHN",
        ),
        ({"image_size": 31}, "image_size is 31; CIFAR10 has images of 32 pixels"),
        ({"dataset": "MNIST", "image_size": 27}, "image_size is 27; MNIST has images of 28 pixels"),
        ({"val_size": -1}, "val_size is -1; it takes the number of images to hold out, or 0"),
        ({"seed": -1}, "seed is -1; it takes an integer >= 0"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        TorchvisionDataModule(**{"dataset": "CIFAR10", **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("val_size", [N_TRAIN, N_TRAIN + 1])
def test_too_many_images_held_out(val_size: int, write: Write) -> None:
    root = write("SVHN").root
    with pytest.raises(ValueError, match=rf"^val_size is {val_size}; SVHN has 40 training images, hold out fewer$"):
        module("SVHN", root, val_size=val_size)


ADVICE = {
    "CIFAR10": ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "CIFAR100": ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "cifar-100-python"),
    "MNIST": ("t10k-labels-idx1-ubyte.gz", "MNIST/raw"),
    "FashionMNIST": ("train-images-idx3-ubyte.gz", "FashionMNIST/raw"),
    "SVHN": ("http://ufldl.stanford.edu/housenumbers/train_32x32.mat", ""),
}


def check_advice(message: str, name: str, root: Path) -> None:
    what, where = ADVICE[name]
    assert "\n" not in message
    assert what in message
    assert str(root / where) in message
    assert "download=True" in message


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named_before_training(name: str, tmp_path: Path) -> None:
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    model = BoringModel()
    with pytest.raises(FileNotFoundError, match=f"^{name} is not in ") as error:
        trainer.fit(model, datamodule=TorchvisionDataModule(name, str(tmp_path), download=False))
    check_advice(str(error.value), name, tmp_path)
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("CIFAR10", "cifar-10-batches-py/test_batch"),
        ("CIFAR100", "cifar-100-python/meta"),
        ("SVHN", "test_32x32.mat"),
        ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte"),
    ],
)
def test_one_file_missing(name: str, file: str, write: Write) -> None:
    root = write(name).root
    (root / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{name} is not in ") as error:
        module(name, root)
    check_advice(str(error.value), name, root)


@pytest.mark.parametrize(
    ("name", "file"), [("CIFAR10", "cifar-10-batches-py/data_batch_3"), ("SVHN", "test_32x32.mat")]
)
def test_a_damaged_file(name: str, file: str, write: Write) -> None:
    root = write(name).root
    content = (root / file).read_bytes()
    (root / file).write_bytes(content[:-1])
    with pytest.raises(FileNotFoundError, match=f"^{name} is not in .*, or damaged;"):
        module(name, root)


def test_images_and_labels_of_different_number(tmp_path: Path) -> None:
    train = some_split("MNIST", N_TRAIN, 0)
    write_idx(tmp_path, Split(train.images, train.labels[:-1]), train, "")
    with pytest.raises(ValueError, match=r"have shapes \(40, 28, 28\) and \(39,\)") as error:
        module("MNIST", tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Refuses every connection; returns the list of addresses that were asked for."""
    asked: list[str] = []

    def refuse(request: urllib.request.Request, *_: Any, **__: Any) -> None:
        asked.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


@pytest.mark.parametrize("name", NAMES)
def test_complete_files_are_not_fetched_again(name: str, write: Write, no_network: list[str]) -> None:
    data = module(name, write(name).root, download=True)
    assert len(data.test) == N_TEST
    assert no_network == []


def test_files_directly_in_the_folder_are_not_fetched(tmp_path: Path, no_network: list[str]) -> None:
    train = some_split("MNIST", N_TRAIN, 0)
    write_idx(tmp_path, train, train, ".gz")
    module("FashionMNIST", tmp_path, download=True)
    assert no_network == []
    assert not (tmp_path / "FashionMNIST").exists()


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_one_missing_idx_file_is_fetched(file: str, write: Write, no_network: list[str]) -> None:
    root = write("MNIST").root
    (root / "MNIST" / "raw" / file).unlink()
    with pytest.raises(RuntimeError, match=r"^downloading MNIST failed"):
        module("MNIST", root, download=True)
    assert no_network


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_download_says_what_to_fetch(name: str, tmp_path: Path, no_network: list[str]) -> None:
    data = TorchvisionDataModule(name, str(tmp_path))
    with pytest.raises(RuntimeError, match=rf"^downloading {name} failed \(.*no route to host.*\); ") as error:
        data.prepare_data()
    check_advice(str(error.value), name, tmp_path)
    assert no_network


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, no_network: list[str]) -> None:
    TorchvisionDataModule("SVHN", str(tmp_path), download=False).prepare_data()
    assert no_network == []


class QuietHandler(SimpleHTTPRequestHandler):
    asked: set[str]

    def log_message(self, *_: Any) -> None:
        self.asked.add(self.path)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, set[str]]]:
    """A web server on this machine: its folder, its address, and the paths that were asked for."""
    folder = tmp_path_factory.mktemp("server")
    handler = type("Handler", (QuietHandler,), {"asked": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}", handler.asked
        httpd.shutdown()
        thread.join()


def test_only_the_missing_file_is_fetched(
    write: Write, server: tuple[Path, str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write("SVHN")
    folder, address, asked = server
    split_list = {
        split: [f"{address}/{file}", file, checksum] for split, (_, file, checksum) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    shutil.move(written.root / "test_32x32.mat", folder)
    data = module("SVHN", written.root, download=True)
    assert asked == {"/test_32x32.mat"}
    assert data.test.labels.tolist() == written.test.labels.tolist()


class Recorder(BoringModel):
    """Notes the images it is given, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        self.seen: dict[str, list[Tensor]] = {}

    def _note(self, key: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.setdefault(key, []).append(batch[0])
        return self.layer(torch.zeros(1, 1)).sum()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._note(f"train {self.current_epoch}", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self._note("val", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._note("predict", batch)


def trainer(max_epochs: int = 1) -> Trainer:
    return Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_training_sees_the_images_of_an_uninterrupted_one(num_workers: int, write: Write) -> None:
    root = write("CIFAR10").root

    def fit(max_epochs: int, checkpoint: Path | None = None) -> dict[str, Tensor]:
        data = TorchvisionDataModule("CIFAR10", str(root), batch_size=16, num_workers=num_workers, download=False)
        model, fitting = Recorder(), trainer(max_epochs)
        fitting.fit(model, datamodule=data, ckpt_path=checkpoint)
        fitting.save_checkpoint(root / "last.ckpt")
        return {key: torch.cat(batches) for key, batches in model.seen.items()}

    whole = fit(3)
    assert [len(whole[f"train {epoch}"]) for epoch in range(3)] == [N_TRAIN] * 3
    assert not torch.equal(whole["train 1"].sort(0).values, whole["train 2"].sort(0).values)
    fit(2)
    resumed = fit(3, root / "last.ckpt")
    assert torch.equal(resumed["train 2"], whole["train 2"])
    assert "train 1" not in resumed


def test_prediction_gives_the_test_images(write: Write) -> None:
    written = write("MNIST")
    data = TorchvisionDataModule("MNIST", str(written.root), batch_size=5, download=False)
    model = Recorder()
    trainer().predict(model, datamodule=data)
    assert [len(batch) for batch in model.seen["predict"]] == [5, 5, 2]
    seen = torch.cat(model.seen["predict"]).numpy()
    np.testing.assert_allclose(seen, expect("MNIST", written.test.images, 32), atol=1e-5)
