"""Running a loop's parts on several threads, as many as torch uses.

The loops let go of Python's global lock, so that ordinary threads are enough: no second OpenMP runtime whose waiting
threads take the cores from torch's.
"""

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import torch

SMALLEST = 2**16
"""Activations of fewer numbers are not worth waking other threads for."""

CUTS = 32
"""Into how many parts the rows are cut at most. The parts, and with them the results, do not depend on the threads."""

CUT_SIZE = 2**14
"""Parts have at least this many numbers, if there are as many."""


def cuts_of(size: int, units: int) -> int:
    """Into how many parts to cut ``units`` that hold ``size`` numbers together.

    Examples:
        >>> cuts_of(2**20, units=256), cuts_of(2**20, units=5), cuts_of(100, units=10)
        (32, 5, 1)
    """
    return max(1, min(CUTS, units, size // CUT_SIZE))


class _Job:
    """One call, of which several threads take parts until there are none left."""

    def __init__(self, function: Callable[[int, int], object], starts: list[int]) -> None:
        self.function, self.starts = function, starts
        self.next = itertools.count()
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()

    def help(self) -> None:
        """Take parts until there are none left."""
        for part in self.next:
            if part >= len(self.starts) - 1:
                return
            try:
                self.function(self.starts[part], self.starts[part + 1])
            except BaseException as error:
                self.done.put(error)
            else:
                self.done.put(None)

    def wait(self) -> None:
        """Wait until all parts are done."""
        errors = [self.done.get() for _ in self.starts[1:]]
        for error in errors:
            if error is not None:
                raise error


class _Helpers:
    """Threads that wait for jobs. They are started when they are needed first, and again in a forked process."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Start anew: a forked process has none of its parent's threads."""
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.lock = threading.Lock()
        self.count = 0

    def call(self, job: _Job, helpers: int) -> None:
        """Let so many threads help with a job."""
        if self.count < helpers:
            with self.lock:
                while self.count < helpers:
                    threading.Thread(target=self._work, args=(self.jobs,), name="mn_lightning", daemon=True).start()
                    self.count += 1
        for _ in range(helpers):
            self.jobs.put(job)

    @staticmethod
    def _work(jobs: "SimpleQueue[_Job]") -> None:
        while True:
            jobs.get().help()


_helpers = _Helpers()


def in_parts(function: Callable[[int, int], Any], count: int, size: int) -> None:
    """Call ``function(first, last)`` so that all of ``range(count)`` is done, on as many threads as torch uses.

    Args:
        function: does the part ``range(first, last)``; it has to let go of Python's global lock to be of use here.
        count: how much there is to do.
        size: how many numbers that is about; few are done by the calling thread alone.

    Examples:
        >>> done = []
        >>> in_parts(lambda first, last: done.extend(range(first, last)), count=10, size=10**6)
        >>> sorted(done) == list(range(10))
        True
    """
    threads = min(torch.get_num_threads(), count)
    if threads == 1 or size < SMALLEST:
        function(0, count)
        return
    parts = min(count, 2 * threads)  # so that one that is late does not keep the others waiting for long
    job = _Job(function, [part * count // parts for part in range(parts + 1)])
    _helpers.call(job, threads - 1)
    job.help()
    job.wait()
