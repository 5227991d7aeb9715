"""A resumed training sees the images of one that was not interrupted, and each of several processes its share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import gloo
from helpers.data_cases import digits_on_device, each_step, fit, fit_in_process
from helpers.data_files import WRITERS, trust_files, write_image_folder
from lightning import LightningDataModule

from mn_lightning.data import ImageFolderDataModule, MultiTaskDataModule, TorchvisionDataModule


def multi_task(root: Path, num_workers: int = 0) -> LightningDataModule:
    names = ("MNIST", "SVHN")
    return MultiTaskDataModule(names, str(root), batch_size=16, augment=True, num_workers=num_workers, download=False)


def image_folder(root: Path, num_workers: int = 0) -> LightningDataModule:
    return ImageFolderDataModule(str(root), batch_size=2, image_size=28, num_workers=num_workers)


def vision(root: Path, num_workers: int = 0) -> LightningDataModule:
    return TorchvisionDataModule("SVHN", str(root), batch_size=8, num_workers=num_workers, download=False)


def vision_on_device(root: Path) -> LightningDataModule:
    return TorchvisionDataModule("SVHN", str(root), batch_size=8, download=False, on_device=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MNIST", "SVHN"):
        WRITERS[name](tmp_path, 40, 8)
    trust_files(tmp_path, monkeypatch)
    write_image_folder(tmp_path)
    return tmp_path


CASES = [
    pytest.param(lambda root, make=make, workers=workers: make(root, workers), id=f"{make.__name__} {workers}")
    for make in (multi_task, image_folder, vision)
    for workers in (0, 1)
] + [pytest.param(make, id=make.__name__) for make in (vision_on_device, digits_on_device)]


@pytest.mark.parametrize("make", CASES)
def test_resumed(make: Callable[[Path], LightningDataModule], root: Path, tmp_path: Path) -> None:
    """From the end of an epoch, and from the middle of one."""
    whole = fit(make(root), 3, callbacks=[each_step(tmp_path / "steps")])
    assert len({torch.cat(images).numpy().tobytes() for images in whole.values()}) == 3
    length = len(whole[0])
    assert length > 2
    for epoch, used in ((2, 0), (1, 2)):
        resumed = fit(make(root), 3, tmp_path / "steps" / f"step-{epoch * length + used}.ckpt")
        assert resumed.keys() == set(range(epoch, 3))
        for found, expected in zip(resumed[epoch], whole[epoch][used:], strict=True):
            assert torch.equal(found, expected)
        for later in range(epoch + 1, 3):
            assert torch.equal(torch.cat(resumed[later]), torch.cat(whole[later]))


@pytest.mark.slow
@pytest.mark.processes
def test_each_process_reads_its_share(tmp_path: Path) -> None:
    first, second = gloo.run(fit_in_process, 2, tmp_path, tmp_path)
    data = digits_on_device(tmp_path)
    data.setup("fit")
    every = np.unique(data.train.tensors[0].numpy().reshape(1257, -1), axis=0, return_counts=True)
    for epoch in (0, 1):
        shares = [torch.cat(found["whole"][epoch]) for found in (first, second)]
        # One of 1257 is read twice, so that both have as many.
        assert [len(share) for share in shares] == [629, 629]
        images, counts = np.unique(torch.cat(shares).numpy().reshape(1258, -1), axis=0, return_counts=True)
        np.testing.assert_array_equal(images, every[0])
        assert (counts - every[1]).tolist().count(0) == len(counts) - 1
    for found in (first, second):
        assert found["resumed"].keys() == {1}
        for batch, expected in zip(found["resumed"][1], found["whole"][1][1:], strict=True):
            assert torch.equal(batch, expected)
    assert not torch.equal(first["whole"][0][0], first["whole"][1][0])
