"""Normalization and augmentation against plain numpy, one image at a time."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mn_lightning.data.images import AugmentedImages, EpochKeys, Images
from mn_lightning.data.sampler import EpochDataLoader, EpochShuffle

N, HEIGHT, WIDTH = 30, 12, 10
MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)


def pixels(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, channels, HEIGHT, WIDTH), dtype=np.uint8)


def plain() -> Images:
    return Images(torch.from_numpy(pixels()), torch.arange(N) % 10, MEAN, STD)


def augmented(flip: bool = True, seed: int = 0) -> AugmentedImages:
    return AugmentedImages(torch.from_numpy(pixels()), torch.arange(N) % 10, MEAN, STD, flip, seed)


def normalize(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float64) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))


def shift(image: np.ndarray, top: int, left: int, mirrored: bool) -> np.ndarray:
    """One image ``(C, H, W)``, put on black, cut out at ``top`` and ``left``, and mirrored pixel by pixel."""
    result = np.zeros_like(image)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            y, x = row + top - 4, column + left - 4
            if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                result[:, row, WIDTH - 1 - column if mirrored else column] = image[:, y, x]
    return result


def keys(epoch: int, indices: Sequence[int] = range(N)) -> list[tuple[int, int]]:
    return [(epoch, index) for index in indices]


def images_of(dataset: Images, epoch: int, indices: Sequence[int] = range(N)) -> Tensor:
    return dataset.__getitems__(keys(epoch, indices))[0]


def test_images_are_normalized() -> None:
    images, labels = plain().__getitems__([4, 29, 0])
    assert images.dtype == torch.float32
    assert labels.tolist() == [4, 9, 0]
    for image, index in zip(images, (4, 29, 0), strict=True):
        np.testing.assert_allclose(image.numpy(), normalize(pixels()[index]), atol=1e-5)


@pytest.mark.parametrize("dataset", [plain(), augmented()], ids=["plain", "augmented"])
def test_one_image_is_a_batch_without_its_first_dimension(dataset: Images) -> None:
    images, labels = dataset.__getitems__(keys(2))
    for index in (0, 17):
        image, label = dataset[2, index]
        assert torch.equal(image, images[index])
        assert torch.equal(label, labels[index])
        assert label.shape == ()
    assert len(dataset) == N


def test_an_index_alone_means_epoch_0() -> None:
    dataset = augmented()
    images, labels = dataset.__getitems__(list(range(N)))
    assert torch.equal(images, images_of(dataset, 0))
    assert torch.equal(labels, torch.arange(N) % 10)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (5, 3)])
def test_augmentation_against_loops(flip: bool, seed: int, epoch: int) -> None:
    draws = np.random.default_rng((seed, epoch, 1)).integers([9, 9, 2], size=(N, 3))
    indices = np.random.default_rng(9).permutation(N)
    images = images_of(augmented(flip, seed), epoch, indices.tolist())
    for image, index in zip(images, indices, strict=True):
        top, left, mirrored = draws[index]
        expected = shift(pixels()[index], top, left, flip and bool(mirrored))
        np.testing.assert_allclose(image.numpy(), normalize(expected), atol=1e-5)


def found_draws(dataset: AugmentedImages, epoch: int) -> list[tuple[int, int, bool]]:
    """The one shift and mirroring that explains each image, whatever was drawn for it."""
    images = images_of(dataset, epoch)
    found = []
    for image, original in zip(images.numpy(), pixels(), strict=True):
        matches = [
            (top, left, mirrored)
            for top in range(9)
            for left in range(9)
            for mirrored in (False, True)
            if np.allclose(image, normalize(shift(original, top, left, mirrored)), atol=1e-5)
        ]
        assert len(matches) == 1
        found += matches
    return found


def test_every_shift_is_up_to_four_pixels_and_half_are_mirrored() -> None:
    draws = found_draws(augmented(), 0)
    tops, lefts, mirrored = zip(*draws, strict=True)
    assert len(set(tops)) > 5
    assert len(set(lefts)) > 5
    assert 0.2 * N < sum(mirrored) < 0.8 * N


def test_without_flip_none_is_mirrored() -> None:
    assert not any(mirrored for _, _, mirrored in found_draws(augmented(flip=False), 0))


def test_all_draws_are_equally_likely() -> None:
    """Through the images themselves: one bright pixel in the corner tells where the crop was."""
    count = 40_000
    images = torch.zeros(count, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255  # the centre, which stays inside every crop
    dataset = AugmentedImages(images, torch.zeros(count, dtype=torch.long), (0.0,), (1.0,), True, 0)
    batch = dataset.__getitems__(list(range(count)))[0]
    # Each row and each column is expected in 1/9 of the images, with a standard deviation of 0.0016.
    for across in (2, 3):
        shares = batch.amax((1, across)).double().mean(0)
        assert (shares - 1 / 9).abs().max() < 5 * 0.0016


def test_augmentation_differs_by_seed_and_epoch() -> None:
    datasets = [augmented(seed=seed) for seed in range(3)]
    results = {images_of(dataset, epoch).numpy().tobytes() for dataset in datasets for epoch in range(3)}
    assert len(results) == 9


def test_augmentation_depends_on_no_global_random_state_and_comes_back() -> None:
    dataset = augmented()
    first = images_of(dataset, 1)
    images_of(dataset, 2)
    torch.manual_seed(5)
    np.random.seed(5)
    state = torch.get_rng_state()
    assert torch.equal(images_of(dataset, 1), first)
    assert torch.equal(images_of(augmented(), 1), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_does_not_depend_on_the_rest_of_the_batch() -> None:
    dataset = augmented()
    whole = images_of(dataset, 4)
    for indices in ([7], [20, 7, 3], list(range(N))[::-1]):
        assert torch.equal(images_of(dataset, 4, indices), whole[indices])


@pytest.mark.parametrize("dataset", [plain(), augmented()], ids=["plain", "augmented"])
def test_the_stored_images_stay_as_they_are(dataset: Images) -> None:
    batch = images_of(dataset, 0)
    batch.zero_()
    np.testing.assert_array_equal(dataset.images.numpy(), pixels())


def test_keys_are_the_order_with_its_epoch() -> None:
    sampler, shuffle = EpochKeys(EpochShuffle(N, 2)), EpochShuffle(N, 2)
    for epoch in (0, 6):
        sampler.set_epoch(epoch)
        shuffle.set_epoch(epoch)
        assert list(sampler) == [(epoch, index) for index in shuffle]
    assert len(sampler) == N


@pytest.mark.parametrize("batch_size", [1, 7, N])
def test_workers_and_batch_size_do_not_change_an_image(batch_size: int) -> None:
    dataset = augmented()
    expected = {epoch: images_of(dataset, epoch) for epoch in (0, 1)}
    num_workers = 2 if batch_size == 7 else 0
    sampler = EpochKeys(EpochShuffle(N, 1))
    loader: DataLoader[tuple[Tensor, Tensor]] = EpochDataLoader(
        dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=lambda batch: batch
    )
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = [index for _, index in sampler]
        assert torch.equal(torch.cat([images for images, _ in loader]), expected[epoch][order])


class Echo(Dataset[tuple[int, int]]):
    """Gives the keys it is asked for."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def dealt_keys(rank: int, epoch: int, length: int) -> list[tuple[int, int]]:
    """What one of two processes gets: Lightning puts its sampler around ours."""
    wrapper = DistributedSamplerWrapper(
        EpochKeys(EpochShuffle(length)), num_replicas=2, rank=rank, shuffle=True, seed=0
    )
    loader: DataLoader[list[tuple[int, int]]] = EpochDataLoader(
        Echo(), batch_size=4, sampler=wrapper, collate_fn=lambda batch: batch
    )
    wrapper.set_epoch(epoch)
    return [key for batch in loader for key in batch]


@pytest.mark.parametrize("epoch", [0, 3])
def test_two_processes_get_every_image_once(epoch: int) -> None:
    first, second = (dealt_keys(rank, epoch, N) for rank in (0, 1))
    assert len(first) == len(second) == N // 2
    assert sorted(first + second) == keys(epoch)


def test_processes_are_dealt_anew_each_epoch() -> None:
    hands = [{index for _, index in dealt_keys(0, epoch, N)} for epoch in (0, 1)]
    assert hands[0] != hands[1]


def test_an_odd_one_out_is_dealt_twice() -> None:
    dealt = dealt_keys(0, 3, 9) + dealt_keys(1, 3, 9)
    assert len(dealt) == 10
    assert set(dealt) == set(keys(3, range(9)))
