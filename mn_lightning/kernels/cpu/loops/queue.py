"""Copying some rows of a batch."""

from typing import Any

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.random import key_of, place

Array = Any


@loop
def keep_planes(x: Array, step: int, stream: int, count: int, slot: Array) -> None:
    """Copy ``count`` rows of planes ``(N, D, L)``, drawn without replacement, or all in their order."""
    length = x.shape[2]
    total, key = len(x) * length, key_of(step, stream)
    for i in range(count):
        index = place(key, i, count, total) if count < total else i
        n, pixel, row = index // length, index % length, slot[i]
        for j in range(x.shape[1]):
            row[j] = x[n, j, pixel]


@loop
def keep_rows(x: Array, step: int, stream: int, count: int, slot: Array) -> None:
    """Copy ``count`` of the rows ``(M, D)``, drawn without replacement, or all in their order."""
    key = key_of(step, stream)
    for i in range(count):
        row, kept = x[place(key, i, count, len(x)) if count < len(x) else i], slot[i]
        for j in range(x.shape[1]):
            kept[j] = row[j]
