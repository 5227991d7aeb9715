"""Estimate hours from work, on this machine and on a GPU. Imports nothing slow: a list should appear at once."""

import json
import math
import time
from typing import NamedTuple

import numpy as np

from mn_lightning.configs import WORK

GPU_MACS = 1.5e13
"""Multiply-accumulates per second that the training of a large network reaches on an NVIDIA H100, in TF32."""

GPU_STEP = 0.012
"""Seconds that a training step takes there at least, however small the network (docs/performance.md)."""

_TRAINING = 3
"""A training step costs three forward passes: the backward pass takes about two."""

_CONVOLUTIONS = 0.5
"""Share of a matrix product's speed that convolutions reach on a CPU."""

_PROBE_SECONDS = 0.25
_SIZE = 512


class Work(NamedTuple):
    """The work of one run.

    Attributes:
        data: name of the data set, or sets.
        images: training images that pass through the network in all epochs; None if unknown.
        macs: multiply-accumulates of the forward passes for one image, in convolutions and matrix products; norms and
            activations are not counted.
        batch: images in a training step.
    """

    data: str
    images: int | None
    macs: int
    batch: int

    @property
    def total(self) -> int | None:
        """Multiply-accumulates of the training's forward passes; None if the number of images is unknown."""
        return None if self.images is None else self.images * self.macs

    def hours(self, macs_a_second: float, seconds_a_step: float = 0.0) -> float | None:
        """Estimate the hours of the training; None if the number of images is unknown.

        Args:
            macs_a_second: the machine's speed.
            seconds_a_step: additional time of each step.

        Examples:
            >>> Work("CIFAR10", images=3600, macs=1000, batch=36).hours(3000.0, seconds_a_step=36)
            2.0
        """
        if self.images is None:
            return None
        steps = math.ceil(self.images / self.batch)
        return (_TRAINING * self.images * self.macs / macs_a_second + steps * seconds_a_step) / 3600


def shipped_work() -> dict[str, dict[str, Work]]:
    """Read the work of one run of each variant of each shipped study, as :mod:`mn_lightning.compare.work` wrote it."""
    written = json.loads(WORK.read_text(encoding="utf-8"))
    return {study: {name: Work(*work) for name, work in variants.items()} for study, variants in written.items()}


def speed_here() -> float:
    """Estimate, within a moment, the multiply-accumulates per second of a training here, from matrix products."""
    a = np.ones((_SIZE, _SIZE), np.float32)
    fastest, end = math.inf, time.perf_counter() + _PROBE_SECONDS
    while (start := time.perf_counter()) < end:
        a @ a
        fastest = min(fastest, time.perf_counter() - start)
    return _CONVOLUTIONS * _SIZE**3 / fastest
