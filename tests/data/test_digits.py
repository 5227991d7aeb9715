"""The digits module against the arrays of scikit-learn it is made from."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.data import DigitsDataModule

SPLITS = {"train": 1257, "val": 270, "test": 270}


@cache
def digits(image_size: int = 8, seed: int = 0) -> DigitsDataModule:
    data = DigitsDataModule(image_size=image_size, seed=seed)
    data.setup()
    return data


def tensors(data: DigitsDataModule, split: str) -> tuple[Tensor, ...]:
    dataset: TensorDataset = getattr(data, split)
    return dataset.tensors


def counts(data: DigitsDataModule, split: str) -> np.ndarray:
    """The split's 8x8 images as the integers 0..16 that they came from: the normalization is undone."""
    train = tensors(data, "train")[0]
    images = tensors(data, split)[0]
    # The training images use the full range, which an affine map of all pixels carries over.
    scaled = (images - train.min()) / (train.max() - train.min()) * 16
    assert torch.allclose(scaled, scaled.round(), atol=1e-4)
    return scaled.round().squeeze(1).numpy().astype(int)


def labelled(images: np.ndarray, labels: np.ndarray) -> Counter[tuple[bytes, int]]:
    return Counter(zip((image.tobytes() for image in images.astype(int)), labels.tolist(), strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_splits_hold_every_labelled_image_once(seed: int) -> None:
    data = digits(seed=seed)
    source = load_digits()
    held: Counter[tuple[bytes, int]] = Counter()
    for split, size in SPLITS.items():
        labels = tensors(data, split)[1]
        assert len(labels) == size
        held += labelled(counts(data, split), labels.numpy())
    assert held == labelled(source.images, source.target)


def test_normalized_by_the_training_pixels_alone() -> None:
    source = counts(digits(), "train") / 16
    mean, std = source.mean(), source.std()
    for split in SPLITS:
        expected = (counts(digits(), split) / 16 - mean) / std
        np.testing.assert_allclose(tensors(digits(), split)[0].squeeze(1).numpy(), expected, atol=1e-3)
    train, val = tensors(digits(), "train")[0], tensors(digits(), "val")[0]
    assert abs(train.mean()) < 1e-5
    assert abs(train.std() - 1) < 1e-5
    assert abs(val.mean()) > 1e-4


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Bilinear in plain numpy: pixel centres are half integers, values continue constantly beyond the outer ones."""
    old = np.arange(8) + 0.5
    new = (np.arange(size) + 0.5) * 8 / size
    rows = np.stack([np.interp(new, old, row) for row in image])
    return np.stack([np.interp(new, old, column) for column in rows.T], axis=1)


@pytest.mark.parametrize("size", [8, 13, 32])
def test_resized_bilinearly(size: int) -> None:
    # The split is the same at every size, so that position i is the same digit.
    small = np.stack([resize(image, size) for image in counts(digits(8), "train")]) / 16
    expected = (small - small.mean()) / small.std()
    images = tensors(digits(size), "train")[0]
    assert images.shape == (1257, 1, size, size)
    np.testing.assert_allclose(images.squeeze(1).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("size", [8, 32])
def test_from_black_at_minus_1_to_white_at_1(size: int) -> None:
    data = DigitsDataModule(image_size=size, normalize="symmetric")
    data.setup()
    for split in SPLITS:
        small = np.stack([resize(image, size) for image in counts(digits(8), split)]) / 8 - 1
        np.testing.assert_allclose(tensors(data, split)[0].squeeze(1).numpy(), small, atol=1e-3)
    images = tensors(data, "train")[0]
    assert (images.min(), images.max()) == (-1, 1)


def test_another_normalization() -> None:
    with pytest.raises(ValueError, match=r"^DigitsDataModule got normalize='unit'; it takes one of 'standard', 'sym"):
        DigitsDataModule(normalize="unit")


def test_equal_class_shares() -> None:
    shares = np.bincount(load_digits().target) / 1797
    for split, size in SPLITS.items():
        labels = tensors(digits(), split)[1].numpy()
        assert np.abs(np.bincount(labels, minlength=10) - shares * size).max() < 1.5


def test_the_split_is_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    again = DigitsDataModule(image_size=8, seed=0)
    again.setup("fit")
    for split in SPLITS:
        for first, second in zip(tensors(digits(), split), tensors(again, split), strict=True):
            assert torch.equal(first, second)
        assert not torch.equal(tensors(digits(), split)[1], tensors(digits(seed=1), split)[1])


def labels_of(loader: DataLoader[tuple[Tensor, ...]]) -> Tensor:
    return torch.cat([labels for _, labels in loader])


def test_training_order_is_a_function_of_seed_and_epoch() -> None:
    loader = digits().train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append(labels_of(loader))
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], tensors(digits(), "train")[1])
    assert torch.equal(orders[0].sort().values, orders[1].sort().values)


@pytest.mark.parametrize("name", ["val", "test", "predict"])
def test_evaluation_keeps_the_order(name: str) -> None:
    loader = getattr(digits(), f"{name}_dataloader")()
    split = "test" if name == "predict" else name
    assert torch.equal(labels_of(loader), tensors(digits(), split)[1])


def test_batches() -> None:
    data = DigitsDataModule(batch_size=100, num_workers=1)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((100, 1, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((100,), torch.int64)
    sizes = [len(labels) for _, labels in data.val_dataloader()]
    assert sizes == [100, 100, 70]
    assert (data.num_classes, data.in_channels) == (10, 1)


def test_images_that_are_too_small() -> None:
    with pytest.raises(ValueError, match=r"^image_size is 7; .* 8x8, give 8 or more$"):
        DigitsDataModule(image_size=7)


class Counting(BoringModel):
    """Counts the images that each of Lightning's loops gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen["fit"] += len(batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen["validate"] += len(batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.seen["test"] += len(batch[1])

    def predict_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen["predict"] += len(batch[1])
        return batch[1]


def test_in_a_trainer() -> None:
    def run(name: str, data: LightningDataModule) -> int:
        trainer = Trainer(
            max_epochs=1,
            num_sanity_val_steps=0,
            limit_val_batches=0 if name == "fit" else None,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model = Counting()
        getattr(trainer, name)(model, datamodule=data)
        return model.seen[name]

    data = DigitsDataModule(image_size=8)
    assert [run(name, data) for name in ("fit", "validate", "test", "predict")] == [1257, 270, 270, 270]
