"""Real images as bytes, whatever loader they come in."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_generator import loader, real_bytes
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mn_lightning.data.images import Images
from mn_lightning.fid.images import ImageFolder, RealImages, content_digest, to_bytes


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-0.5, 3.0)])
def test_every_byte_comes_back(value_range: tuple[float, float]) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    low, high = value_range
    assert torch.equal(to_bytes(every.float() / 255 * (high - low) + low, value_range), every)
    assert torch.equal(to_bytes(every, value_range), every)


def test_values_beyond_the_range_are_clamped() -> None:
    assert to_bytes(torch.tensor([-3.0, -1.0, 1.0, 1.1]), (-1, 1)).tolist() == [0, 0, 255, 255]


def test_half_precision() -> None:
    assert to_bytes(torch.tensor([-1.0, 0.5], dtype=torch.bfloat16), (-1, 1)).tolist() == [0, 191]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_image_once_in_order(num_workers: int) -> None:
    """Neither shuffling nor drop_last of the training loader changes what is real."""
    images = RealImages(loader(num_workers=num_workers), (-1, 1), 7)
    assert len(images) == 30
    batches = list(images.batches(range(30)))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 2]
    assert torch.equal(torch.cat(batches), real_bytes())
    assert torch.equal(torch.cat(list(images.batches(range(11, 20)))), real_bytes()[11:20])


def test_datasets_that_give_whole_batches() -> None:
    """As TorchvisionDataModule's, whose loader must not collate again."""

    def as_it_is(batch: Any) -> Any:
        return batch

    dataset = Images(real_bytes(), torch.zeros(30).long(), [0.5], [0.5])
    images = RealImages(DataLoader(dataset, batch_size=4, collate_fn=as_it_is), (-1, 1), 8)
    assert torch.equal(torch.cat(list(images.batches(range(30)))), real_bytes())


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    colours = torch.randint(0, 256, (3, 5, 4, 3), dtype=torch.uint8)
    for name, pixels in zip(("b/2.png", "a.PNG", "b/1.bmp"), colours, strict=True):
        Image.fromarray(pixels.numpy()).save(tmp_path / name)
    (tmp_path / "note.txt").write_text("no image")
    folder = ImageFolder(str(tmp_path))
    assert torch.equal(torch.stack(list(folder)), colours[[1, 2, 0]].permute(0, 3, 1, 2))
    Image.fromarray(colours[0, :4].numpy()).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c.png has size \(4, 4\), the first image of its folder \(4, 5\)"):
        list(ImageFolder(str(tmp_path)))


def batched(images: Tensor, start: int, stop: int, size: int) -> Tensor:
    return content_digest(images[start:stop].split(size), range(start, stop))


def test_digests_of_parts_add_up() -> None:
    images = real_bytes()
    whole = batched(images, 0, 30, 30)
    assert whole.dtype == torch.int64
    assert torch.equal(batched(images, 0, 13, 5) + batched(images, 13, 30, 3), whole)
    assert torch.equal(content_digest((), ()), torch.zeros(4).long())


def test_digest_knows_content_place_and_shape() -> None:
    images = real_bytes()
    changed = images.clone()
    changed[7, 0, 3, 3] ^= 1
    others = [changed, images.flip(0), images.reshape(30, 1, 4, 16), images[:29]]
    digests = {tuple(batched(x, 0, len(x), 9).tolist()) for x in [images, *others]}
    assert len(digests) == 5
