"""Greedy k-means++ on some rows, as :mod:`mn_lightning.kernels.kmeans` has it."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop
from mn_lightning.kernels.cpu.loops.random import key_of, number

Array = Any


@loop
def take_planes(x: Array, step: int, stream: int, rows: Array) -> None:
    """Copy rows of planes ``(N, D, L)``: all if there is place for them, else random ones, with replacement."""
    length = x.shape[2]
    total, key = len(x) * length, key_of(step, stream)
    for i in range(len(rows)):
        index = int(np.float64(number(key, i)) * total) if total > len(rows) else i
        n, pixel, row = index // length, index % length, rows[i]
        for j in range(x.shape[1]):
            row[j] = x[n, j, pixel]


@loop
def take_rows(x: Array, step: int, stream: int, rows: Array) -> None:
    """Copy rows of ``(M, D)``: all if there is place for them, else random ones, with replacement."""
    key = key_of(step, stream)
    for i in range(len(rows)):
        _copy(x[int(np.float64(number(key, i)) * len(x)) if len(x) > len(rows) else i], rows[i])


@loop
def center(rows: Array, origin: Array) -> None:
    """Take the rows ``(R, D)`` relative to their mean."""
    total = np.zeros(rows.shape[1])
    for i in range(len(rows)):
        row = rows[i]
        for j in range(len(row)):
            total[j] += row[j]
    for j in range(len(origin)):
        origin[j] = total[j] / len(rows)
    for i in range(len(rows)):
        row = rows[i]
        for j in range(len(row)):
            row[j] -= origin[j]


@loop
def start(rows: Array, step: int, stream: int, candidates: int, origin: Array, centers: Array) -> None:
    """Take rows relative to their mean, the origin, and choose centres among them; these are not relative to it."""
    center(rows, origin)
    seed(rows, step, stream, candidates, centers)
    for k in range(len(centers)):
        for j in range(len(origin)):
            centers[k, j] += origin[j]


@loop
def seed(rows: Array, step: int, stream: int, candidates: int, centers: Array) -> None:
    """Choose centres ``(K, D)`` among the rows: each the best of some candidates, drawn by squared distance.

    Args:
        rows: ``(R, D)``.
        step: that the random numbers are a function of.
        stream: of them.
        candidates: how many for each centre after the first.
        centers: result.
    """
    count, key = len(rows), key_of(step, stream)
    _copy(rows[min(int(number(key, 0) * np.float32(count)), count - 1)], centers[0])
    # Squared distances to the nearest centre so far, to the candidate, and with the best candidate.
    closest, distances, best = np.empty(count, rows.dtype), np.empty(count, rows.dtype), np.empty(count, rows.dtype)
    _distances(rows, centers[0], closest)
    for k in range(1, len(centers)):
        whole = 0.0
        for i in range(count):
            whole += closest[i]
        least = np.inf
        for candidate in range(candidates):
            target = whole * np.float64(number(key, 1 + (k - 1) * candidates + candidate))
            pick, reached = 0, np.float64(closest[0])
            while pick < count - 1 and not reached >= target:
                pick += 1
                reached += closest[pick]
            _distances(rows, rows[pick], distances)
            left = 0.0
            for i in range(count):
                distances[i] = distances[i] if distances[i] < closest[i] else closest[i]
                left += distances[i]
            if candidate == 0 or left < least:
                least = left
                _copy(rows[pick], centers[k])
                _copy(distances, best)
        _copy(best, closest)


@loop
def _copy(values: Array, to: Array) -> None:
    # A loop is compiled in a fraction of the time that an assignment to a slice takes.
    for i in range(len(values)):
        to[i] = values[i]


@loop
def _distances(rows: Array, center: Array, distances: Array) -> None:
    """|row - center|² of each row."""
    zero = rows.dtype.type(0)
    for i in range(len(rows)):
        row = rows[i]
        total = zero
        for j in range(len(row)):
            difference = row[j] - center[j]
            total += difference * difference
        distances[i] = total
