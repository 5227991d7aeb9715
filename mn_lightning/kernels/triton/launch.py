"""Starting a kernel, in as little time of the host as possible: small activations cost nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

TYPES = {torch.float32, torch.bfloat16, torch.float16}
MOST_FEATURES = 4096
MOST_COMPONENTS = 16
PROGRAMS_OFF_GPU = 3
"""In Triton's interpreter: enough of them that their sums have to be added up."""

_KNOWN_SINCE = (3, 6)
"""Triton's version since which a compiled kernel is known to take what :func:`_run` passes."""
_IS_KNOWN = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= _KNOWN_SINCE

_compiled: dict[Hashable, Any] = {}


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def programs(device: torch.device, tiles: int) -> int:
    """How many programs share out the tiles of a pass whose sums are added up afterwards: two a processor."""
    return max(1, min(tiles, 2 * _processors(device) or PROGRAMS_OFF_GPU))


def power_of_2(number: int) -> int:
    """The next power of 2; the extent of a tile has to be one."""
    return 1 << max(0, number - 1).bit_length()


def launch(
    kernel: Any, grid: tuple[int, int], tensors: Sequence[Tensor | None], numbers: tuple[Any, ...], warps: int = 8
) -> None:
    """Run ``kernel[grid](*tensors, *numbers)``.

    Triton looks at every argument of every launch to find the compiled kernel. What it would find depends on the types
    and the alignment of the tensors and on the numbers alone, so one look-up with these is enough from the second time.

    Args:
        kernel: made by ``triton.jit``.
        grid: how many programs in each direction.
        tensors: its first arguments, all on one device, the first never None.
        numbers: the rest of its arguments: sizes and constants.
        warps: for each program.
    """
    device = tensors[0].device  # type: ignore[union-attr]
    if device.type != "cuda":  # the interpreter
        kernel[grid](*tensors, *numbers)
    elif device.index == torch._C._cuda_getDevice():
        _run(kernel, grid, tensors, numbers, warps, device.index)
    else:
        with torch.cuda.device(device):
            _run(kernel, grid, tensors, numbers, warps, device.index)


def _run(
    kernel: Any,
    grid: tuple[int, int],
    tensors: Sequence[Tensor | None],
    numbers: tuple[Any, ...],
    warps: int,
    device: int,
) -> None:
    pointers = [None if t is None else t.data_ptr() for t in tensors]
    key = (
        kernel,
        device,
        numbers,
        *[None if t is None else t.dtype for t in tensors],
        *[p is not None and p % 16 for p in pointers],
    )
    compiled = _compiled.get(key)
    if compiled is None:
        compiled = kernel[grid](*tensors, *numbers, num_warps=warps)
        if _IS_KNOWN:
            _compiled[key] = compiled
        return
    # Addresses, not tensors: of these Triton would ask the driver where they are.
    stream = torch._C._cuda_getCurrentRawStream(device)
    compiled.run(
        *(grid[0], grid[1], 1, stream, compiled.function, compiled.packed_metadata, None, None, None),
        *pointers,
        *numbers,
    )
