"""The idx-ubyte format of MNIST and Fashion-MNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

_UBYTE = 0x08
_GZIP = b"\x1f\x8b"


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the path of ``name`` or ``name.gz`` in ``folder``, or None if there is neither."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path) -> Tensor:
    """Read an idx file of unsigned bytes, plain or gzipped.

    The format is two zero bytes, the type (8), the number of dimensions, each dimension as a big-endian uint32, and
    the values in C order.

    Args:
        path: the file; its content tells whether it is gzipped.

    Returns:
        uint8 tensor in the shape that the file gives: ``(N, height, width)`` for images, ``(N,)`` for labels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has another format, or is too short or too long.
    """
    raw = path.read_bytes()
    if raw.startswith(_GZIP):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}); fetch it again") from error

    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UBYTE or raw[3] == 0:
        raise ValueError(
            f"{path} starts with 0x{raw[:4].hex()}, not 0x0000{_UBYTE:02x} and a dimension count; "
            "it takes an idx-ubyte file, plain or gzipped"
        )
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise ValueError(f"{path} ends inside its header, after {len(raw)} of {start} bytes; fetch it again")
    shape = struct.unpack(f">{raw[3]}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise ValueError(f"{path} has {len(raw) - start} values, its header says {math.prod(shape)}; fetch it again")
    # The bytearray makes the tensor writable. The header is cut off last, because torch.frombuffer refuses an empty
    # buffer.
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)[start:].reshape(shape)
