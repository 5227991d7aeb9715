"""Shuffling as a function of seed and epoch, so that runs can be compared and resumed."""

import os
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Sampler

_T_co = TypeVar("_T_co", covariant=True)


def run_seed(seed: int) -> int:
    """Add the seed that ``seed_everything`` was given: it changes order and augmentation, but never a split."""
    return seed + int(os.environ.get("PL_GLOBAL_SEED", 0))


class EpochShuffle(Sampler[int]):
    """A random order that depends on ``seed`` and epoch alone, never on the global random state.

    Lightning calls :meth:`set_epoch` at the start of each epoch, also after a resume. Under DDP it deals this order
    out to the processes, reshuffled by its own ``DistributedSampler``, which goes by ``PL_GLOBAL_SEED`` and epoch.

    Args:
        length: number of samples.
        seed: not negative.

    Raises:
        ValueError: if ``seed`` is negative.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed is {seed}; it takes an integer >= 0")
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of ``epoch``, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order: list[int] = np.random.default_rng((self.seed, self.epoch)).permutation(self.length).tolist()
        return iter(order)

    def __len__(self) -> int:
        return self.length


class EpochDataLoader(DataLoader[_T_co]):
    """A DataLoader whose workers start with the first batch that is asked for, not with ``iter()``.

    A resumed Trainer calls ``iter()`` before it tells the sampler the epoch. Worker processes would have fetched the
    first batches in the order of epoch 0 by then.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its private iterator class
        yield from super().__iter__()
