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
WARPS = 4
PROGRAMS_PER_PROCESSOR = 4
MOST_REGISTERS = 128
"""Of a thread: what lets PROGRAMS_PER_PROCESSOR programs of WARPS * 32 threads run on a processor at the same time."""
PROGRAMS_OFF_GPU = 2
"""In Triton's interpreter, which is slow: as few as have sums that have to be added up."""

_KNOWN_SINCE = (3, 6)
"""Triton's version since which a compiled kernel is known to take what :func:`_run` passes."""
_IS_KNOWN = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= _KNOWN_SINCE
_MOST_COMPILED = 4096

Numbers = tuple[Any, ...]

_compiled: dict[Hashable, Any] = {}
_arrived: dict[tuple[int, int], Tensor] = {}


@lru_cache
def most_programs(device: torch.device) -> int:
    """How many programs of :func:`launch_steps` there are at most: as many as run at the same time."""
    if device.type != "cuda":
        return PROGRAMS_OFF_GPU
    return PROGRAMS_PER_PROCESSOR * torch.cuda.get_device_properties(device).multi_processor_count


def power_of_2(number: int) -> int:
    """The next power of 2; the extent of a tile has to be one."""
    return 1 << max(0, number - 1).bit_length()


def launch(kernel: Any, programs: int, tensors: Sequence[Tensor | None], sizes: Numbers, warps: int = WARPS) -> None:
    """Run ``kernel[(programs,)](*tensors, *sizes)``.

    Args:
        kernel: made by ``triton.jit``.
        programs: how many of them.
        tensors: its first arguments, all on one device, the first never None.
        sizes: the rest of its arguments: integers and constants.
        warps: for each program.
    """
    device = tensors[0].device  # type: ignore[union-attr]
    if device.type == "cuda":
        _run(kernel, programs, tensors, (), sizes, device, {"num_warps": warps})
    else:
        kernel[(programs,)](*tensors, *sizes)


def launch_steps(
    kernel: Any, steps: int, programs: int, tensors: Sequence[Tensor | None], numbers: Numbers, sizes: Numbers
) -> None:
    """Run the steps of a kernel, see :mod:`mn_lightning.kernels.triton.steps`.

    The kernel is ``kernel[(programs,)](*tensors, arrived, *numbers, first, last, *sizes)``.

    Args:
        kernel: made by ``triton.jit``.
        steps: how many there are.
        programs: how many of them, at most :func:`most_programs`.
        tensors: its first arguments, all on one device, the first never None.
        numbers: floating point.
        sizes: integers and constants.
    """
    device = tensors[0].device  # type: ignore[union-attr]
    if device.type == "cuda":
        options = {"num_warps": WARPS, "maxnreg": MOST_REGISTERS, "launch_cooperative_grid": True}
        tensors = (*tensors, _counter(device.index))
        _run(kernel, programs, tensors, numbers, (0, steps, *sizes), device, options)
        return
    for step in range(steps):
        kernel[(programs,)](*tensors, None, *numbers, step, step + 1, *sizes)


def _counter(device: int) -> Tensor:
    """A counter of 0 for the launch's programs; every launch leaves it so for the next on its stream."""
    if torch.cuda.is_current_stream_capturing():  # a graph is replayed on other streams: it gets one of its own
        return torch.zeros((), dtype=torch.int32, device=f"cuda:{device}")
    stream = device, torch._C._cuda_getCurrentRawStream(device)
    counter = _arrived.get(stream)
    if counter is None:
        counter = _arrived[stream] = torch.zeros((), dtype=torch.int32, device=f"cuda:{device}")
    return counter


def _run(
    kernel: Any,
    programs: int,
    tensors: Sequence[Tensor | None],
    numbers: Numbers,
    sizes: Numbers,
    device: torch.device,
    options: dict[str, Any],
) -> None:
    """Run on a GPU.

    Triton looks at every argument of every launch to find the compiled kernel. What it would find depends on the types
    and the alignment of the tensors and on the sizes alone, so one look-up with these is enough from the second time.
    """
    if device.index != torch._C._cuda_getDevice():
        with torch.cuda.device(device):
            return _run(kernel, programs, tensors, numbers, sizes, device, options)
    pointers = [None if t is None else t.data_ptr() for t in tensors]
    key = (
        kernel,
        device.index,
        sizes,
        *[None if t is None else t.dtype for t in tensors],
        *[p is not None and p % 16 for p in pointers],
    )
    compiled = _compiled.get(key)
    if compiled is None:
        compiled = kernel[(programs,)](*tensors, *numbers, *sizes, **options)
        if _IS_KNOWN:
            if len(_compiled) >= _MOST_COMPILED:  # inputs of ever new sizes
                _compiled.clear()
            _compiled[key] = compiled
        return None
    # Addresses, not tensors: of these Triton would ask the driver where they are.
    stream = torch._C._cuda_getCurrentRawStream(device.index)
    compiled.run(
        *(programs, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None),
        *pointers,
        *numbers,
        *sizes,
    )
    return None
