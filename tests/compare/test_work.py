"""Estimates of work against counts by hand, and their list."""

import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mn_lightning.__main__ import main
from mn_lightning.compare import listing
from mn_lightning.compare.hours import GPU_MACS, GPU_STEP, Work, shipped_work, speed_here
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import Study, StudyError
from mn_lightning.compare.work import describe, macs_of, shipped, work_of
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
        ("kalayeh_table2_cifar10", "MN-4", Work("CIFAR10", 100 * 50_000, CONV_NET, 256)),
        ("kalayeh_table2_cifar100", "BN-1", Work("CIFAR100", 100 * 50_000, CONV_NET + 90 * 256, 256)),
        ("deecke_table1", "IN", Work("MNIST + CIFAR10 + SVHN + FashionMNIST", 15 * MULTI_TASK, LE_NET, 128)),
        ("deecke_table2", "MGN N=8", Work("MNIST + CIFAR10 + SVHN + FashionMNIST", 50_000 * 8, LE_NET, 8)),
        ("fashion_mnist_multitask", "LN", Work("FashionMNIST + Digits", 15 * 11_257, LE_NET - 84 * 20, 128)),
    ],
)
def test_the_work_of_a_run(name: str, variant: str, expected: Work) -> None:
    study = load_study(name)
    found = work_of(study)
    assert list(found) == list(study.variants)
    assert found[variant] == shipped_work()[name][variant] == expected
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
def test_the_written_work_is_that_of_the_studies() -> None:
    assert shipped() == shipped_work(), "python -m mn_lightning.compare.work writes it anew"


def test_work_is_written_for_every_study() -> None:
    written = shipped_work()
    assert {name: list(works) for name, works in written.items()} == {
        name: list(load_study(name).variants) for name in study_names()
    }


def test_hours_by_hand() -> None:
    """3,600 steps of 10 images: 3 × 36,000 × 1e6 MACs are 108 s at 1e9 a second, and 2 s a step are two hours."""
    work = Work("CIFAR10", 36_000, 10**6, 10)
    assert work.hours(1e9) == pytest.approx(108 / 3600)
    assert work.hours(1e9, 2.0) == pytest.approx(108 / 3600 + 2)
    assert Work("flowers", None, 10**6, 10).hours(1e9) is None
    # A last batch that is not full is a step too.
    assert Work("CIFAR10", 11, 0, 10).hours(1.0, 3600.0) == 2


def test_the_machines_speed_is_half_that_of_its_matrix_products() -> None:
    """Against torch's, on one thread or all: within what other programs on the machine do to a clock."""
    a = torch.ones(512, 512)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    assert 0.05 < speed_here() / (0.5 * 512**3 / min(times)) < 20


def test_the_list(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All studies, from a folder without data, in which nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(listing, "speed_here", lambda: 1e11)
    main(["studies"])
    printed = capsys.readouterr().out
    rows = {}
    for line in printed.splitlines():
        cells = re.split(r"\s{2,}", line.strip())
        rows[cells[0]] = cells[1:]
    for name in study_names():
        assert rows[name][-4] == str(len(load_study(name).runs))
    # 27 runs of 100 epochs of CIFAR-10's 50,000 images in batches of 256.
    macs = 27 * 100 * 50_000 * CONV_NET
    gpu = (3 * macs / GPU_MACS + 27 * math.ceil(100 * 50_000 / 256) * GPU_STEP) / 3600
    assert rows["kalayeh_table2_cifar10"] == [
        "Kalayeh & Shah 2018", "2 and 3", "CIFAR10", "27", "1.2e16", f"{3 * macs / 1e11 / 3600:.0f}", f"{gpu:.1g}"
    ]  # fmt: skip
    # torchvision documents 1.81e9 for a ResNet-18 and an image: times 90 epochs of 1,281,167 images, twice.
    assert rows["deecke_table4"][:5] == ["Deecke et al. 2018", "4", "imagenet", "2", "4.2e17"]
    assert float(rows["deecke_table4"][5].replace(",", "")) == pytest.approx(3 * 4.2e17 / 1e11 / 3600, rel=0.02)
    assert "1.0e11 a second here" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_the_list_imports_nothing_that_takes_long() -> None:
    code = (
        "import sys; from mn_lightning.__main__ import main; main(['studies']);"
        "assert not {'torch', 'lightning', 'scipy', 'matplotlib'} & set(sys.modules), 'a slow import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_list_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["studies", "digits"])
    assert end.value.code == 2
    assert "unrecognized arguments: digits" in capsys.readouterr().err
