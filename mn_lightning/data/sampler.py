"""Shuffle as a function of seed and epoch, so that runs can be compared and resumed."""

import itertools
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

_T_co = TypeVar("_T_co", covariant=True)


def run_seed(seed: int) -> int:
    """Add the seed that was given to ``seed_everything``: it changes order and augmentation, but never a split."""
    return seed + int(os.environ.get("PL_GLOBAL_SEED", 0))


class EpochShuffle(Sampler[int]):
    """A random order that depends on ``seed`` and epoch alone, never on the global random state.

    Lightning calls :meth:`set_epoch` at the start of each epoch, also after a resume. Under DDP its own
    ``DistributedSampler`` reshuffles this order, by ``PL_GLOBAL_SEED`` and epoch, and divides it among the processes.

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
    """A DataLoader with which a resumed Trainer can continue, even in the middle of an epoch.

    Its workers start when the first batch is requested, not at ``iter()``. A resumed Trainer calls ``iter()`` before it
    tells the sampler the epoch, and workers would already read the first batches in the order of epoch 0.

    Lightning saves :meth:`state_dict` in its checkpoints. Batches that had been used are not read again.
    """

    # Not in __init__: under DDP, Lightning builds the loader anew, from DataLoader's arguments only.
    _used = 0
    _used_before: dict[str, int] | None = None
    _skipped = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its private iterator class
        before, self._used_before = self._used_before, None
        # A checkpoint from the end of an epoch holds the number of that epoch's batches; the next epoch starts from its
        # first.
        first = before["batches"] if before and before["epoch"] == self._epoch else 0
        self._skipped = first
        # torch's iterator draws a seed for its workers. If an epoch continues, it was drawn before the interruption.
        with torch.random.fork_rng(devices=[], enabled=first > 0):
            batches = super().__iter__()
        self._skipped = 0
        for used, batch in enumerate(batches, first + 1):
            self._used = used
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, counted from 0, and the number of its batches that were used."""
        return {"epoch": self._epoch, "batches": self._used}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Skip the batches that had been used, if the next epoch is the one of ``state_dict``."""
        self._used_before = state_dict

    def give_again(self, used: int) -> None:
        """Correct the number from :meth:`load_state_dict`: only so many of the epoch's batches were used."""
        if self._used_before is not None:
            self._used_before = {**self._used_before, "batches": used}

    @property
    def _epoch(self) -> int:
        return getattr(self.sampler, "epoch", 0)

    @property
    def _index_sampler(self) -> Any:
        # torch's iterators take the indices of each batch from here, with workers or without.
        indices = super()._index_sampler  # type: ignore[misc, unused-ignore]
        return _WithoutFirst(indices, self._skipped) if self._skipped else indices


class _WithoutFirst:
    """The indices of an epoch's batches, without those of the first ``count``."""

    def __init__(self, batches: Any, count: int) -> None:
        self.batches = batches
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.batches, self.count, None)

    def __len__(self) -> int:
        return len(self.batches)
