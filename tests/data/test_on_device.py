"""Data sets on the training device: the same batches as image by image, wherever they lie."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import WRITERS, trust_files
from lightning import LightningDataModule
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2f

from mn_lightning.data import DigitsDataModule, MultiTaskDataModule, TorchvisionDataModule
from mn_lightning.data.images import AugmentedImages, crop_and_flip
from mn_lightning.fid.images import RealImages

MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)
DRAWS = [(top, left, mirrored) for top in range(9) for left in range(9) for mirrored in (False, True)]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small CIFAR-10."""
    WRITERS["CIFAR10"](tmp_path, 40, 12)
    trust_files(tmp_path, monkeypatch)
    return tmp_path


def vision(root: Path, **arguments: Any) -> TorchvisionDataModule:
    return TorchvisionDataModule(
        "CIFAR10", str(root), **{"batch_size": 16, "val_size": 8, "download": False, **arguments}
    )


def digits(root: Path, **arguments: Any) -> DigitsDataModule:
    return DigitsDataModule(**{"image_size": 12, **arguments})


def set_up(module: LightningDataModule, device: str | None = None) -> LightningDataModule:
    """As a Trainer does whose device is ``device``."""
    if device is not None:
        module.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    module.setup("fit")
    return module


def batches(module: Any, epochs: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    """Those of some epochs of training, and of all that is evaluated."""
    train = module.train_dataloader()
    for epoch in range(epochs):
        train.sampler.set_epoch(epoch)
        yield from train
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        yield from loader


def pixels(count: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


# --- against one image at a time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 9, 14)], ids=str)
def test_every_crop_is_the_one_of_torchvision(shape: tuple[int, int, int]) -> None:
    images = pixels(len(DRAWS), *shape)
    top, left, mirrored = (torch.tensor(draw) for draw in zip(*DRAWS, strict=True))
    found = {flip: crop_and_flip(images, top, left, mirrored if flip else None) for flip in (True, False)}
    for flip, crops in found.items():
        for crop, image, draw in zip(crops, images, DRAWS, strict=True):
            expected = v2f.crop(v2f.pad(image, [4]), *draw[:2], *shape[1:])
            assert torch.equal(crop, v2f.horizontal_flip(expected) if flip and draw[2] else expected)


def test_a_batch_is_what_torchvision_makes_of_each_picture() -> None:
    images = pixels(50, 3, 32, 32)
    dataset = AugmentedImages(images, torch.arange(50), MEAN, STD, True, seed=3)
    batch, labels = dataset.__getitems__([(2, index) for index in range(49, -1, -1)])
    assert batch.is_contiguous()
    draws = np.random.default_rng((3, 2, 1)).integers([9, 9, 2], size=(50, 3))
    normalize = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for result, index in zip(batch, labels.tolist(), strict=True):
        top, left, mirrored = draws[index].tolist()
        picture = Image.fromarray(images[index].permute(1, 2, 0).numpy())
        picture = v2f.crop(v2f.pad(picture, [4]), top, left, 32, 32)
        expected = normalize(v2f.horizontal_flip(picture) if mirrored else picture)
        torch.testing.assert_close(result, expected.as_subclass(Tensor), rtol=0, atol=1e-6)


# --- how often what is drawn --------------------------------------------------------------------------------------


def marked(count: int) -> Tensor:
    """Images ``(count, 1, 10, 10)`` whose two marks stay inside every crop and say which one it is."""
    images = torch.zeros(count, 1, 10, 10, dtype=torch.uint8)
    images[:, 0, 4, 4], images[:, 0, 4, 5] = 255, 100
    return images


def drawn(crops: Tensor) -> np.ndarray:
    """Number of each crop of :func:`marked` images in ``DRAWS``, from where its marks are."""
    flat = crops.flatten(1)
    (bright, dim), width = (flat.argsort(descending=True)[:, :2].T.numpy()), crops.shape[-1]
    mirrored = dim < bright
    top, left = 8 - bright // width, np.where(mirrored, bright % width - 1, 8 - bright % width)
    return (top * 9 + left) * 2 + mirrored


def of_epoch(count: int, epoch: int, seed: int = 0) -> np.ndarray:
    dataset = AugmentedImages(marked(count), torch.zeros(count, dtype=torch.long), (0.0,), (1.0,), True, seed)
    return drawn(dataset.__getitems__([(epoch, index) for index in range(count)])[0])


def test_the_marks_tell_every_crop() -> None:
    draws = (torch.tensor(draw) for draw in zip(*DRAWS, strict=True))
    assert drawn(crop_and_flip(marked(len(DRAWS)), *draws)).tolist() == list(range(len(DRAWS)))


@pytest.mark.parametrize("epoch", [0, 7])
def test_every_crop_is_equally_likely(epoch: int) -> None:
    counts = np.bincount(of_epoch(40_000, epoch), minlength=len(DRAWS))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_as_often_as_torchvisions_random_transforms() -> None:
    torch.manual_seed(0)
    transform = v2.Compose([v2.RandomCrop(10, padding=4), v2.RandomHorizontalFlip()])
    theirs = drawn(torch.stack([transform(image) for image in marked(6_000)]))
    table = [np.bincount(draws, minlength=len(DRAWS)) for draws in (of_epoch(6_000, 1), theirs)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_an_images_crops_in_two_epochs_have_nothing_to_do_with_each_other() -> None:
    first, second = (of_epoch(40_000, epoch) // 18 for epoch in (0, 1))  # the rows
    table = np.zeros((9, 9))
    np.add.at(table, (first, second), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3


# --- on a device --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [vision, digits])
def test_all_is_computed_where_the_trainer_trains(make: Callable[..., LightningDataModule], root: Path) -> None:
    """On the device ``meta`` there are no values: whatever waited for one, or computed elsewhere, would raise."""
    expected = batches(set_up(make(root)))
    for found, there in zip(batches(set_up(make(root, on_device=True), "meta")), expected, strict=True):
        for tensor, like in zip(found, there, strict=True):
            assert (tensor.device.type, tensor.shape, tensor.dtype) == ("meta", like.shape, like.dtype)
            assert like.device.type == "cpu"


def test_what_is_held_there_are_bytes(root: Path) -> None:
    module = set_up(vision(root, on_device=True), "meta")
    for dataset in (module.train, module.val, module.test):
        assert (dataset.images.device.type, dataset.images.dtype) == ("meta", torch.uint8)
        assert dataset.labels.device.type == "meta"


@pytest.mark.parametrize("make", [vision, digits])
@pytest.mark.parametrize("device", [None, "cpu", pytest.param("cuda", marks=needs_gpu)])
def test_the_batches_are_those_of_the_cpu(
    device: str | None, make: Callable[..., LightningDataModule], root: Path
) -> None:
    pairs = zip(batches(set_up(make(root, on_device=True), device)), batches(set_up(make(root))), strict=True)
    for (images, labels), (expected, expected_labels) in pairs:
        assert images.device.type == labels.device.type == (device or "cpu")
        torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-6)
        assert torch.equal(labels.cpu(), expected_labels)


@needs_gpu
@pytest.mark.parametrize("make", [vision, digits])
def test_no_batch_waits_for_the_gpu(make: Callable[..., LightningDataModule], root: Path) -> None:
    module = set_up(make(root, on_device=True), "cuda")
    list(batches(module))  # memory is pinned
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(batches(module))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_real_images_for_a_distance(device: str, root: Path) -> None:
    arguments = {"normalize": "symmetric", "augment": False}
    loaders = [set_up(vision(root, **arguments)), set_up(vision(root, on_device=True, **arguments), device)]
    expected, found = (
        torch.cat(list(RealImages(module.train_dataloader(), (-1, 1), 7).batches(range(20)))) for module in loaders
    )
    assert found.device.type == "cpu"
    assert torch.equal(found, expected)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TorchvisionDataModule("CIFAR10", on_device=True, num_workers=2),
            "TorchvisionDataModule got num_workers=2 with on_device=True; nothing is left for workers to do there, "
            "give num_workers=0",
        ),
        (
            lambda: DigitsDataModule(on_device=True, num_workers=1),
            "DigitsDataModule got num_workers=1 with on_device=True; nothing is left for workers to do there, "
            "give num_workers=0",
        ),
        (
            lambda: DigitsDataModule(on_device="cuda"),
            "DigitsDataModule got on_device='cuda'; it takes True or False, give the device itself to the Trainer as "
            "accelerator",
        ),
        (
            lambda: MultiTaskDataModule(["MNIST", DigitsDataModule(normalize="symmetric", on_device=True)]),
            "datasets has Digits with on_device=True; MultiTaskDataModule mixes its batches on the CPU, give the "
            "module on_device=False",
        ),
    ],
    ids=["workers", "workers of digits", "a device", "several tasks"],
)
def test_refused(make: Callable[[], LightningDataModule], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
