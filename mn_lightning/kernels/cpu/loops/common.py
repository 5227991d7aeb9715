"""What several of the other files need."""

from typing import Any

from mn_lightning.kernels.cpu.compile import loop

Array = Any


@loop
def clear(values: Array) -> None:
    """Make zeros of a vector: a call is compiled in a fraction of the time that an assignment to a slice takes."""
    zero = values.dtype.type(0)
    for i in range(len(values)):
        values[i] = zero


@loop
def of_sample(values: Array, n: int) -> Array:
    """Row ``n``, or the only one, which stands for all samples: those of one row each have no variance within."""
    return values[n if len(values) > 1 else 0]
