"""Random numbers that are functions of a step and a stream alone."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mn_lightning.utils.random import Stream, stratified, uniform


def test_uniform_numbers_are_uniform() -> None:
    for step, stream in [(0, 0), (1, 0), (123456, 0), (1, 1), (7, 25)]:
        u = uniform(torch.tensor(step), 20000, stream).double().numpy()
        assert u.min() >= 0
        assert u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4 / math.sqrt(20000)
    table = np.stack([uniform(torch.tensor(s), 4, Stream.KMEANS).double().numpy() for s in range(5000)])
    for column in table.T:  # the same draw over consecutive steps
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(column[1:], column[:-1])[0, 1]) < 4 / math.sqrt(5000)
    correlation = np.corrcoef(table.T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / math.sqrt(5000)


def test_uniform_numbers_of_different_steps_and_streams_are_independent() -> None:
    keys = [(step, stream) for step in (0, 1, 2, 1000) for stream in (0, 1, 2, 3)]
    table = np.stack([uniform(torch.tensor(step), 10000, stream).double().numpy() for step, stream in keys])
    correlation = np.corrcoef(table) - np.eye(len(keys))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(10000)
    cells = np.histogram2d(table[0], table[1], bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(cells.flatten()).pvalue > 1e-3


def test_uniform_numbers_are_a_function_of_step_and_stream_alone() -> None:
    first = uniform(torch.tensor(5), 100, stream=2)
    torch.rand(3)
    assert torch.equal(first, uniform(torch.tensor([5]), 100, stream=2))
    assert torch.equal(first[:10], uniform(torch.tensor(5), 10, stream=2))
    assert first.dtype == torch.float32
    assert not torch.equal(first, uniform(torch.tensor(6), 100, stream=2))
    assert not torch.equal(first, uniform(torch.tensor(5), 100, stream=3))
    assert uniform(torch.tensor(2**62), 100, 0).isfinite().all()


@pytest.mark.parametrize(("size", "total"), [(10, 10), (10, 15), (7, 100)])
def test_rows_of_a_stratified_choice_are_different_and_equally_likely(size: int, total: int) -> None:
    counts = np.zeros(total)
    for step in range(4000):
        chosen = stratified(torch.tensor(step), size, total, 0)
        assert len(chosen.unique()) == size
        counts[chosen.numpy()] += 1
    # Choices of one step exclude each other, so that counts vary less than independent ones would.
    assert stats.chisquare(counts).pvalue > 1e-3
