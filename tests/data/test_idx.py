"""Reading idx files that are packed here byte by byte, as the format's description says."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mn_lightning.data.idx import find_idx, read_idx

# torch warns of a tensor over memory that is not writable, but only once in a process: the first test would hide it.
pytestmark = pytest.mark.filterwarnings("error")


def pack(values: np.ndarray, type_code: int = 0x08) -> bytes:
    header = struct.pack(">BBBB", 0, 0, type_code, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def some_values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (2, 3, 300, 1), (0, 28, 28)])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_reads_values_in_the_stated_shape(tmp_path: Path, shape: tuple[int, ...], compress: type) -> None:
    values = some_values(*shape)
    path = tmp_path / "some-idx-ubyte"  # the name does not tell whether it is gzipped
    path.write_bytes(compress(pack(values)))

    read = read_idx(path)

    assert read.dtype == torch.uint8
    assert read.shape == shape
    np.testing.assert_array_equal(read.numpy(), values)


def test_the_tensor_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(pack(some_values(3)))
    read = read_idx(path)
    read += 1
    assert read.tolist() == [(int(value) + 1) % 256 for value in some_values(3)]


def test_a_file_is_found_plain_or_gzipped(tmp_path: Path) -> None:
    assert find_idx(tmp_path, "labels") is None
    (tmp_path / "labels.gz").touch()
    assert find_idx(tmp_path, "labels") == tmp_path / "labels.gz"
    (tmp_path / "labels").touch()
    assert find_idx(tmp_path, "labels") == tmp_path / "labels"


def test_a_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    assert find_idx(tmp_path, "labels") is None


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")


GOOD = pack(some_values(2, 3))
ZIPPED = gzip.compress(GOOD, mtime=0)  # the time of day would be part of the tests' names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "starts with 0x, not 0x000008"),
        (b"\0\0\x08", "starts with 0x000008,"),
        (b"\x89PNG\r\n", "starts with 0x89504e47, not 0x000008"),
        (pack(some_values(8), type_code=0x0D), "starts with 0x00000d01, not 0x000008"),
        (b"\0\0\x08\0", "starts with 0x00000800"),
        (GOOD[:10], "ends inside its header, after 10 of 12 bytes"),
        (GOOD[:-1], "has 5 values, its header says 6"),
        (GOOD + b"\0", "has 7 values, its header says 6"),
        (gzip.compress(GOOD[:-1], mtime=0), "has 5 values, its header says 6"),
        (ZIPPED[:-9], "damaged gzip file"),
        (ZIPPED[:12] + b"\xff\xff" + ZIPPED[14:], "damaged gzip file"),
        (ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], "damaged gzip file"),  # wrong checksum
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "train-labels"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        read_idx(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
