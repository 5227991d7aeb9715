"""Image folders against PIL, numpy and torchvision's first generation of transforms, one image at a time."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.data_files import write_image_folder
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import RandomResizedCrop

from mn_lightning.__main__ import main
from mn_lightning.data import ImageFolderDataModule

MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
N_TRAIN, N_TEST = 6, 4
FIRST, SECOND = "n01440764", "n01443537"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image_folder(tmp_path, N_TRAIN, N_TEST)
    return tmp_path


def module(root: Path, **arguments: Any) -> ImageFolderDataModule:
    """The data module as a Trainer uses it."""
    data = ImageFolderDataModule(str(root), **{"image_size": 28, "num_workers": 0, **arguments})
    data.prepare_data()
    data.setup()
    return data


def files(root: Path, split: str) -> list[tuple[Path, int]]:
    return [
        (path, label) for label, name in enumerate((FIRST, SECOND)) for path in sorted((root / split / name).iterdir())
    ]


def normalize(image: Image.Image, mean: Any = MEAN, std: Any = STD) -> np.ndarray:
    return ((np.asarray(image) / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


def central(path: Path, size: int) -> Image.Image:
    """The central square after the shorter side was resized to 8/7 of it."""
    image = Image.open(path).convert("RGB")
    shorter = round(size * 8 / 7)
    width, height = (shorter * side // min(image.size) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def cropped(path: Path, size: int, key: tuple[int, ...]) -> Image.Image:
    """What torchvision draws from a generator that is seeded by ``key``, cut out and mirrored by PIL."""
    image = Image.open(path).convert("RGB")
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
    top, left, height, width = RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3])
    image = image.crop((left, top, left + width, top + height)).resize((size, size), Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image


def read(loader: DataLoader[tuple[Tensor, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images).numpy(), torch.cat(labels).numpy()


@pytest.mark.parametrize("size", [28, 35])
@pytest.mark.parametrize("split", ["val", "test", "predict"])
def test_evaluation_reads_the_centre_of_every_image(split: str, size: int, root: Path) -> None:
    images, labels = read(getattr(module(root, batch_size=3, image_size=size), f"{split}_dataloader")())
    expected = files(root, "val")
    assert labels.tolist() == [label for _, label in expected] == [0, 0, 1, 1]
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(images, [normalize(central(path, size)) for path, _ in expected], atol=1e-5)


@pytest.mark.parametrize(("run_seed", "seed", "epoch"), [(0, 0, 0), (4, 1, 3)])
def test_training_reads_a_part_of_every_image(
    run_seed: int, seed: int, epoch: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", str(run_seed))
    loader = module(root, batch_size=4, seed=seed).train_dataloader()
    loader.sampler.set_epoch(epoch)
    order = np.random.default_rng((run_seed + seed, epoch)).permutation(N_TRAIN)
    images, labels = read(loader)
    paths = files(root, "train")
    assert labels.tolist() == [paths[index][1] for index in order]
    expected = [normalize(cropped(paths[index][0], 28, (run_seed + seed, epoch, 3, index))) for index in order]
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_from_black_at_minus_1_to_white_at_1(root: Path) -> None:
    images, _ = read(module(root, normalize="symmetric").val_dataloader())
    expected = [normalize(central(path, 28), (0.5,) * 3, (0.5,) * 3) for path, _ in files(root, "val")]
    np.testing.assert_allclose(images, expected, atol=1e-5)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_and_batch_size_change_nothing(num_workers: int, root: Path) -> None:
    expected = read(module(root, batch_size=6).train_dataloader())
    for got, wanted in zip(
        read(module(root, batch_size=4, num_workers=num_workers).train_dataloader()), expected, strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


def test_no_global_random_state_is_used_or_changed(root: Path) -> None:
    images = module(root).train
    first = images[3, 1][0]
    torch.manual_seed(5)
    np.random.seed(5)
    state = torch.get_rng_state()
    assert torch.equal(images[3, 1][0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(images[4, 1][0], first)


def test_an_unreadable_image_leaves_the_random_state_as_it_was(root: Path) -> None:
    images = module(root).train
    images.transform = lambda _: 1 / 0
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        images[0, 0]
    assert torch.equal(torch.get_rng_state(), state)


def test_no_image_is_dropped_from_the_last_batch(root: Path) -> None:
    data = module(root, batch_size=4)
    assert [len(labels) for _, labels in data.train_dataloader()] == [4, 2]
    assert [len(labels) for _, labels in module(root, batch_size=3).val_dataloader()] == [3, 1]
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((4, 3, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


def test_number_of_classes_is_known_before_the_images_are_listed(root: Path) -> None:
    data = ImageFolderDataModule(str(root))
    assert (data.num_classes, data.in_channels) == (2, 3)


def test_the_home_folder_can_be_written_as_a_tilde(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    assert len(module(Path("~")).train) == N_TRAIN


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_folder_is_named_before_training(missing: str, root: Path) -> None:
    (root / missing).rename(root / "elsewhere")
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(FileNotFoundError, match=f"^{root / missing} has no class folders; ") as error:
        trainer.fit(BoringModel(), datamodule=ImageFolderDataModule(str(root)))
    message = str(error.value)
    assert "\n" not in message
    for part in (f"{root}/train/CLASS/", f"{root}/val/CLASS/", "ILSVRC2012_img_train.tar", "https://image-net.org"):
        assert part in message
    assert f"torchvision.datasets.ImageNet('{root}', split)" in message


def test_images_outside_of_class_folders(root: Path) -> None:
    """As ImageNet's validation images come out of their archive."""
    for path, _ in files(root, "val"):
        path.rename(root / "val" / path.name)
    for name in (FIRST, SECOND):
        (root / "val" / name).rmdir()
    with pytest.raises(FileNotFoundError, match=f"^{root / 'val'} has no class folders; put images into "):
        module(root)


def test_a_class_without_images(root: Path) -> None:
    for path in (root / "train" / SECOND).iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{root / 'train'}: .*{SECOND}.* put images into ") as error:
        module(root)
    assert "\n" not in str(error.value)


def test_train_and_val_with_different_classes(root: Path) -> None:
    (root / "val" / SECOND).rename(root / "val" / "n02")
    with pytest.raises(ValueError, match=f"2 classes in train and 2 in val, 1 of them in both; {SECOND} is only in tr"):
        module(root)
    (root / "val" / "n02").rename(root / "val" / SECOND)
    (root / "val" / "n00").mkdir()
    with pytest.raises(ValueError, match=r"2 classes in train and 3 in val, 2 of them in both; n00 is only in val, "):
        module(root)


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file, "jpeg")
    return file.getvalue()[:-40]


def broken_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()[:200] + b"\0" * 300 + file.getvalue()[500:]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"no image", truncated_jpeg(), broken_png()])
def test_an_unreadable_image_is_named(content: bytes, num_workers: int, root: Path) -> None:
    path, _ = files(root, "val")[2]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} cannot be read as an image \(.*\); replace or delete it"):
        read(module(root, num_workers=num_workers).val_dataloader())


def test_files_that_are_left_out_are_said(root: Path) -> None:
    (root / "train" / FIRST / ".DS_Store").touch()
    (root / "val" / FIRST / "photo.heic").touch()
    (root / "val" / SECOND / "notes.txt").touch()
    with pytest.warns(
        UserWarning, match=r"val holds 2 files whose names are not those of images, such as /"
    ) as warnings:
        data = module(root)
    assert len(warnings) == 1
    assert str(root / "val" / FIRST / "photo.heic") in str(warnings[0].message)
    assert (len(data.train), len(data.val)) == (N_TRAIN, N_TEST)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"normalize": "unit"},
            r"^ImageFolderDataModule got normalize='unit'; it takes one of 'standard', 'symmetric'$",
        ),
        ({"image_size": 0}, "^ImageFolderDataModule got image_size=0; "),
        ({"seed": -1}, "^ImageFolderDataModule got seed=-1; "),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageFolderDataModule("nowhere", **arguments)


def tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_imagenet_as_torchvision_unpacks_it(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives in the form of image-net.org's: a tar of tars for training, all images in one for validation."""
    unpacked = tmp_path_factory.mktemp("imagenet")
    train: dict[str, bytes] = {}
    for name in (FIRST, SECOND):
        tar(unpacked / "class.tar", {path.name: path.read_bytes() for path in (root / "train" / name).iterdir()})
        train[f"{name}.tar"] = (unpacked / "class.tar").read_bytes()
    tar(unpacked / "train.tar", train)
    val = {path.name: (path, path.parent.name) for path, _ in files(root, "val")}
    tar(unpacked / "val.tar", {name: path.read_bytes() for name, (path, _) in val.items()})
    wnids = [val[name][1] for name in sorted(val)]

    monkeypatch.setattr(datasets.imagenet, "_verify_archive", lambda *_: None)  # it compares md5 sums
    datasets.imagenet.parse_train_archive(unpacked, "train.tar")
    datasets.imagenet.parse_val_archive(unpacked, "val.tar", wnids)

    data, same = module(unpacked), module(root)
    for loader in ("train_dataloader", "val_dataloader"):
        for part, expected in zip(read(getattr(data, loader)()), read(getattr(same, loader)()), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_the_data_can_be_sent_to_workers_that_are_started_anew(root: Path) -> None:
    images = module(root).train
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again[1, 2][0], images[1, 2][0])


def test_from_the_command_line(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    (root / "folder.yaml").write_text(
        """
model:
  class_path: ImageClassifier
  init_args:
    network: {class_path: CIFARConvNet, init_args: {num_classes: 2}}
    num_classes: 2
data:
  class_path: ImageFolderDataModule
  init_args: {root: ., batch_size: 4, image_size: 32, num_workers: 0}
trainer: {fast_dev_run: true, enable_progress_bar: false}
"""
    )
    main(["fit", "--config", "folder.yaml", "--test_after_fit=true"])
    assert "test_acc" in capsys.readouterr().out
