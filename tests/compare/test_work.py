"""Estimates of work against counts by hand, and their list."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mn_lightning.__main__ import main
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import Study, StudyError
from mn_lightning.compare.work import Work, describe, macs_of, work_of
from mn_lightning.configs import study_names
from mn_lightning.data import DigitsDataModule, ImageFolderDataModule, MultiTaskDataModule, TorchvisionDataModule
from mn_lightning.models import DCGAN, ImageClassifier, LeNet, ResNet20

# Output pixels × input channels × kernel pixels × output channels, and the linear layers.
LE_NET = 28**2 * 3 * 25 * 6 + 10**2 * 6 * 25 * 16 + 400 * 120 + 120 * 84 + 84 * 40
CONV_NET = 32**2 * 3 * 25 * 64 + 16**2 * 64 * 25 * 128 + 8**2 * 128 * 25 * 128 + 4**2 * 128 * 9 * 256 + 256 * 10
MULTI_TASK = 60_000 + 50_000 + 73_257 + 60_000


def test_macs_are_those_of_the_convolutions_and_linear_layers() -> None:
    assert macs_of(ImageClassifier(LeNet(), 40), MultiTaskDataModule()) == LE_NET
    # He et al. (arXiv:1512.03385) give none for it; 3 stages of 6 convolutions, where the image halves and channels
    # double, so that all but the first convolution of a stage take the same.
    stage = 32**2 * 16 * 9 * 16
    resnet = 32**2 * 3 * 9 * 16 + 6 * stage + 2 * (stage // 2 + 5 * stage) + 64 * 10
    assert macs_of(ImageClassifier(ResNet20()), TorchvisionDataModule("CIFAR10")) == resnet


def test_macs_are_for_the_images_of_the_data() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
    model = ImageClassifier(network)
    model.example_input_array = torch.zeros(2, 1, 32, 32)
    assert macs_of(model, DigitsDataModule(image_size=16)) == 16**2 * 9 * 4


def test_macs_of_a_gan_are_those_of_an_update_of_both_networks() -> None:
    # A transposed convolution takes its kernel once for each input pixel.
    generator = 5 * 16 * 16 + (4**2 * 16 * 8 + 8**2 * 8 * 4 + 16**2 * 4 * 2) * 16 + 32**2 * 2 * 9 * 1
    discriminator = (16**2 * 1 * 2 + 8**2 * 2 * 4 + 4**2 * 4 * 8) * 16 + 16 * 8 * 1
    model = DCGAN(1, latent_features=5, base_channels=2)
    assert macs_of(model, DigitsDataModule()) == 2 * generator + 3 * discriminator
    published = DCGAN(1, latent_features=5, base_channels=2, as_published=True)
    assert macs_of(published, DigitsDataModule()) == generator + 2 * discriminator


@pytest.mark.parametrize(
    ("datamodule", "expected"),
    [
        (TorchvisionDataModule("CIFAR100"), ("CIFAR100", 50_000)),
        (TorchvisionDataModule("FashionMNIST", val_size=10_000), ("FashionMNIST", 50_000)),
        (MultiTaskDataModule(), ("MNIST + CIFAR10 + SVHN + FashionMNIST", MULTI_TASK)),
        (ImageFolderDataModule("somewhere/imagenet"), ("imagenet", None)),
        (
            MultiTaskDataModule(["Digits", ImageFolderDataModule("flowers", normalize="symmetric")]),
            ("Digits + flowers", None),
        ),
    ],
)
def test_data_is_described_without_being_read(datamodule: Any, expected: tuple[str, int | None]) -> None:
    assert describe(datamodule) == expected


def test_the_digits_are_as_many_as_are_trained_on() -> None:
    datamodule = DigitsDataModule()
    datamodule.setup()
    assert describe(datamodule) == ("Digits", len(datamodule.train))


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("kalayeh_table2_cifar10", "MN-4", Work("CIFAR10", 100 * 50_000, CONV_NET)),
        ("kalayeh_table2_cifar100", "BN-1", Work("CIFAR100", 100 * 50_000, CONV_NET + 90 * 256)),
        ("deecke_table1", "IN", Work("MNIST + CIFAR10 + SVHN + FashionMNIST", 15 * MULTI_TASK, LE_NET)),
        ("deecke_table2", "MGN N=8", Work("MNIST + CIFAR10 + SVHN + FashionMNIST", 50_000 * 8, LE_NET)),
        ("fashion_mnist_multitask", "LN", Work("FashionMNIST + Digits", 15 * 11_257, LE_NET - 84 * 20)),
    ],
)
def test_the_work_of_a_run(name: str, variant: str, expected: Work) -> None:
    study = load_study(name)
    found = work_of(study)
    assert list(found) == list(study.variants)
    assert found[variant] == expected
    assert found[variant].total == (expected.images or 0) * expected.macs


def study(data: Any, **trainer: Any) -> Study:
    base = {"model": {"class_path": "ImageClassifier", "init_args": {"network": "ResNet20"}}, "data": data}
    return Study("mine", ({**base, "trainer": trainer},), {"BN": {}}, "BN", "val_acc", images=700)


FOLDER = {"class_path": "ImageFolderDataModule", "init_args": {"batch_size": 4}}


@pytest.mark.parametrize(
    ("trainer", "images"),
    [({"max_epochs": 3}, 2100), ({"max_epochs": 3, "max_steps": 5}, 20), ({"max_epochs": -1}, None), ({}, None)],
)
def test_images_that_the_study_gives(trainer: dict[str, int], images: int | None) -> None:
    assert work_of(study(FOLDER, **trainer))["BN"].images == images


def test_a_variant_that_does_not_parse() -> None:
    with pytest.raises(StudyError, match="the variant 'BN' of the study 'mine' does not parse"):
        work_of(study(FOLDER, max_epox=3))


@pytest.mark.slow
def test_the_list(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All studies, from a folder without data, in which nothing is written."""
    monkeypatch.chdir(tmp_path)
    main(["studies"])
    printed = capsys.readouterr().out
    assert "┃ MACs in all ┃\n" in printed  # as wide as a log file, whatever the names are
    rows = {}
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.strip("│ ").split("│")]
        rows[cells[0]] = cells[1:]
    for name in study_names():
        assert rows[name][3] == str(len(load_study(name).runs))
    assert rows["kalayeh_table2_cifar10"] == ["Kalayeh & Shah 2018", "2 and 3", "CIFAR10", "27", "4.4e14", "1.2e16"]
    assert rows["deecke_table4"][:3] == ["Deecke et al. 2018", "4", "imagenet"]
    # torchvision documents 1.81e9 for a ResNet-18 and an image: times 90 epochs of 1,281,167 images.
    assert rows["deecke_table4"][4:] == ["2.1e17", "4.2e17"]
    assert list(tmp_path.iterdir()) == []


def test_the_list_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["studies", "digits"])
    assert end.value.code == 2
    assert "unrecognized arguments: digits" in capsys.readouterr().err
