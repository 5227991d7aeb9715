"""Greedy k-means++ on some rows, as :mod:`mn_lightning.kernels.kmeans` has it."""

from typing import Any

import numpy as np

from mn_lightning.kernels.cpu.compile import loop

Array = Any


@loop
def take_planes(x: Array, draws: Array, rows: Array) -> None:
    """Copy rows of planes ``(N, D, L)``: all if there are no draws in [0, 1), else those at draw · N L."""
    length = x.shape[2]
    for i in range(len(rows)):
        index = int(np.float64(draws[i]) * (len(x) * length)) if len(draws) else i
        n, pixel, row = index // length, index % length, rows[i]
        for j in range(x.shape[1]):
            row[j] = x[n, j, pixel]


@loop
def take_rows(x: Array, draws: Array, rows: Array) -> None:
    """Copy rows of ``(M, D)``: all if there are no draws in [0, 1), else those at draw · M."""
    for i in range(len(rows)):
        index = int(np.float64(draws[i]) * len(x)) if len(draws) else i
        rows[i] = x[index]


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
def seed(rows: Array, draws: Array, candidates: int, centers: Array) -> None:
    """Choose centres ``(K, D)`` among the rows: each the best of some candidates, drawn by squared distance.

    Args:
        rows: ``(R, D)``.
        draws: uniform numbers in [0, 1), ``(1 + (K - 1) candidates,)``.
        candidates: how many for each centre after the first.
        centers: result.
    """
    count = len(rows)
    centers[0] = rows[min(int(np.float32(draws[0]) * np.float32(count)), count - 1)]
    closest = np.empty(count, rows.dtype)
    _distances(rows, centers[0], closest)
    distances, best_distances = np.empty_like(closest), np.empty_like(closest)
    for k in range(1, len(centers)):
        whole = 0.0
        for i in range(count):
            whole += closest[i]
        least = np.inf
        for candidate in range(candidates):
            target = whole * np.float64(draws[1 + (k - 1) * candidates + candidate])
            pick, reached = 0, np.float64(closest[0])
            while pick < count - 1 and not reached >= target:
                pick += 1
                reached += closest[pick]
            _distances(rows, rows[pick], distances)
            left = 0.0
            for i in range(count):
                distances[i] = min(distances[i], closest[i])
                left += distances[i]
            if candidate == 0 or left < least:
                least = left
                centers[k] = rows[pick]
                best_distances[:] = distances
        closest[:] = best_distances


@loop
def _distances(rows: Array, center: Array, distances: Array) -> None:
    """|row - center|² of each row."""
    number = rows.dtype.type
    for i in range(len(rows)):
        row = rows[i]
        total = number(0)
        for j in range(len(row)):
            difference = row[j] - center[j]
            total += difference * difference
        distances[i] = total
