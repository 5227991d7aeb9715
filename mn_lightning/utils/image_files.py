"""Image files: which files in a folder are images, and their pixels as 8-bit RGB, rightly or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the names of image files, in lower or upper case."""


def list_images(folder: str | Path) -> tuple[list[str], list[str]]:
    """List the image files in a folder and in the folders in it, and the files that are left out.

    Hidden files and folders are passed over without a word: a name that begins with a dot is that of a program's own
    file, as macOS' ``._0.jpg`` and Jupyter's ``.ipynb_checkpoints``. A folder that is reached again by a symbolic link
    is listed once.

    Args:
        folder: where to look.

    Returns:
        Paths of the images, in the order of their folders and names, and of the other files: those with another ending,
        and what is no file at all, as a named pipe that nobody writes to.

    Raises:
        OSError: if a folder is missing or cannot be read.
    """
    images: list[str] = []
    others: list[str] = []
    for _, files in sorted(_walk(os.fspath(folder), set())):
        for path, is_file in files:
            (images if is_file and path.lower().endswith(SUFFIXES) else others).append(path)
    return images, others


def list_folders(folder: str | Path) -> list[str]:
    """Return the sorted names of the folders in ``folder`` that are not hidden.

    Raises:
        OSError: if ``folder`` is missing or cannot be read.
    """
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def read_rgb(path: str | Path) -> Image.Image:
    """Read an image as 8-bit RGB.

    Grey images of 16 bits are scaled to 8, as their white is 65535. An alpha channel is dropped where it hides nothing.

    Raises:
        ValueError: names a file that is damaged or no image, that is transparent in places, or whose values have no
            white.
    """
    try:
        with Image.open(path) as file:
            problem = _problem(file)
            if not problem:
                return _to_rgb(file)
    except Exception as error:  # PIL raises whatever the bytes of a damaged file lead to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an image ({reason}); replace or delete it") from error
    raise ValueError(f"{path} {problem}")


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Give each folder once, with its files, and whether each is a regular file."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    yield folder, [(entry.path, entry.is_file()) for entry in entries if not entry.is_dir()]
    for entry in entries:
        if entry.is_dir():
            yield from _walk(entry.path, seen)


def _problem(image: Image.Image) -> str:
    """Return why an image has no pixels in 8-bit RGB; empty if it has."""
    if image.mode == "F" or (image.mode == "I" and not _is_16_bit(image)):
        return f"has pixels of mode {image.mode}, in which no value is white; save it with 8 or 16 bits"
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        if np.asarray(alpha).min() < 255:
            return "is transparent in places; put it on a background, or leave it out"
    return ""


def _is_16_bit(image: Image.Image) -> bool:
    # Some versions of Pillow read grey PNG and PGM files of 16 bits as 32-bit integers.
    return image.mode.startswith("I;16") or image.format in ("PNG", "PPM")


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    # Image.convert would clamp 16 bits to 8, which makes nearly all pixels white. 65535 = 257 * 255.
    pixels = (np.asarray(image).astype(np.uint32) + 128) // 257
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
