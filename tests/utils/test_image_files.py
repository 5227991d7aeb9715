"""Which files are images, and their pixels against NumPy arrays that were written by hand."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mn_lightning.utils.image_files import list_folders, list_images, read_rgb

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def relative(root: Path, paths: list[str]) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in paths]


def save(pixels: np.ndarray, path: Path, **arguments: Any) -> Path:
    Image.fromarray(pixels).save(path, **arguments)
    return path


def with_alpha(pixels: np.ndarray, alpha: int) -> np.ndarray:
    opacity = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    opacity[2, 3] = alpha
    return np.concatenate([pixels.reshape(*pixels.shape[:2], -1), opacity], 2)


def test_images_in_the_order_of_folders_and_names(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/1.tif", "b/c/0.webp", "z.png", "a.jpeg", "b-/x.pgm")
    images, others = list_images(tmp_path)
    assert relative(tmp_path, images) == ["a.jpeg", "z.png", "b/1.tif", "b/2.JPG", "b-/x.pgm", "b/c/0.webp"]
    assert others == []


def test_what_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "0.png", "._0.png", ".ipynb_checkpoints/0-checkpoint.png", "notes.txt", "a/photo.heic", ".DS_Store")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images, others = list_images(tmp_path)
    assert relative(tmp_path, images) == ["0.png"]
    assert relative(tmp_path, others) == ["gone.png", "notes.txt", "pipe.png", "a/photo.heic"]
    assert list_folders(tmp_path) == ["a"]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    touch(outside, "1.png", "deep/2.png")
    touch(inside, "0.png", "a/3.png")
    (inside / "link").symlink_to(outside)
    (inside / "4.png").symlink_to(outside / "1.png")
    (inside / "a" / "up").symlink_to(inside)
    (inside / "b").symlink_to(inside / "a")
    (outside / "deep" / "back").symlink_to(inside)
    images, _ = list_images(inside)
    assert relative(inside, images) == ["0.png", "4.png", "a/3.png", "link/1.png", "link/deep/2.png"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list_images(tmp_path / "nowhere")


def test_8_bits_are_what_was_written(tmp_path: Path) -> None:
    for suffix in ("png", "bmp", "tif", "ppm"):
        assert np.array_equal(read_rgb(save(COLOUR, tmp_path / f"colour.{suffix}")), COLOUR)
    for suffix in ("png", "bmp", "tif", "pgm"):
        assert np.array_equal(read_rgb(save(GREY, tmp_path / f"grey.{suffix}")), np.repeat(GREY[..., None], 3, 2))
    palette = Image.fromarray(COLOUR).quantize(32)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_rgb(tmp_path / "palette.png"), palette.convert("RGB"))
    (tmp_path / "bits.png").write_bytes((save(GREY > 100, tmp_path / "1.png")).read_bytes())
    assert np.array_equal(np.asarray(read_rgb(tmp_path / "bits.png"))[..., 0], (GREY > 100) * 255)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1, 128, 129, 255, 256, 257], [1000, 30000, 32768, 50000, 65000, 65406, 65535]], np.uint16)
    expected = np.rint(values / 65535 * 255).astype(int)
    if suffix == "pgm":
        (tmp_path / "x.pgm").write_bytes(b"P5 7 2 65535\n" + values.astype(">u2").tobytes())
    else:
        save(values, tmp_path / f"x.{suffix}")
    assert np.array_equal(np.asarray(read_rgb(tmp_path / f"x.{suffix}")).astype(int)[..., 1], expected)


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_alpha_that_hides_nothing_is_dropped_and_other_is_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    found = np.asarray(read_rgb(save(with_alpha(pixels, 255), tmp_path / "opaque.png")))
    assert np.array_equal(found, np.broadcast_to(pixels.reshape(6, 5, -1), (6, 5, 3)))
    path = save(with_alpha(pixels, 254), tmp_path / "hole.png")
    with pytest.raises(ValueError, match=f"^{path} is transparent in places; put it on a background") as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)


def test_a_palette_with_a_transparent_colour_is_refused_where_it_is_used(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8), "L").convert("P")
    image.save(tmp_path / "unused.png", transparency=7)
    image.save(tmp_path / "used.png", transparency=int(np.asarray(image)[0, 0]))
    assert np.asarray(read_rgb(tmp_path / "unused.png")).max() == 0
    with pytest.raises(ValueError, match=r"used.png is transparent in places"):
        read_rgb(tmp_path / "used.png")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_without_a_white_are_refused(tmp_path: Path, dtype: Any) -> None:
    path = save(GREY.astype(dtype), tmp_path / "x.tif")
    with pytest.raises(ValueError, match=f"^{path} has pixels of mode .*; save it with 8 or 16 bits$"):
        read_rgb(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} cannot be read as an image \(.+\); replace or delete it$"):
        read_rgb(path)


def test_a_file_that_is_cut_anywhere_is_named_or_whole(tmp_path: Path) -> None:
    whole = save(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8), tmp_path / "whole.jpg").read_bytes()
    path, errors = tmp_path / "cut.jpg", []
    lengths = range(0, len(whole), 40)
    for length in lengths:
        path.write_bytes(whole[:length])
        try:
            read_rgb(path)
        except ValueError as error:
            errors.append(str(error))
    assert all(error.startswith(f"{path} cannot be read as an image (") for error in errors)
    assert len(errors) > len(lengths) - 3
