"""Starting a kernel, in as little time of the host as possible: small activations cost nothing else."""

from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

TYPES = {torch.float32, torch.bfloat16, torch.float16}
MOST_FEATURES = 4096
MOST_COMPONENTS = 16
PROGRAMS_OFF_GPU = 3
"""In Triton's interpreter: enough of them that their sums have to be added up."""

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
    kernel: Any, grid: tuple[int, int], tensors: tuple[Tensor | None, ...], numbers: tuple[Any, ...], warps: int = 8
) -> None:
    """Run ``kernel[grid](*tensors, *numbers)``.

    Triton looks at every argument of every launch to find the compiled kernel. What it would find depends on the types
    and the alignment of the tensors and on the numbers alone, so one look-up with these is enough from the second time.

    Args:
        kernel: made by ``triton.jit``.
        grid: how many programs in each direction.
        tensors: its first arguments, all on one device.
        numbers: the rest of its arguments: sizes and constants.
        warps: for each program.
    """
    device = tensors[0].device if tensors[0] is not None else None
    if device is None or device.type != "cuda":  # the interpreter
        kernel[grid](*tensors, *numbers)
        return
    key = (
        kernel,
        device.index,
        numbers,
        *(None if t is None else (t.dtype, t.data_ptr() % 16) for t in tensors),
    )
    if device.index == torch.cuda.current_device():
        _launch(kernel, grid, tensors, numbers, warps, key)
    else:
        with torch.cuda.device(device):
            _launch(kernel, grid, tensors, numbers, warps, key)


def _launch(
    kernel: Any,
    grid: tuple[int, int],
    tensors: tuple[Tensor | None, ...],
    numbers: tuple[Any, ...],
    warps: int,
    key: Hashable,
) -> None:
    compiled = _compiled.get(key)
    if compiled is None:
        _compiled[key] = kernel[grid](*tensors, *numbers, num_warps=warps)
    else:
        compiled[(grid[0], grid[1], 1)](*tensors, *numbers)
