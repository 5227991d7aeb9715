import io
import math

import pytest
import torch

from mn_lightning.analysis.history import MAX_CHANNELS, MAX_SNAPSHOTS, History, spread_evenly
from mn_lightning.gmm import Mixture


def mixture(channels: int, value: float, per_channel: bool = False) -> Mixture:
    weights = torch.full((3, channels) if per_channel else (3,), value)
    return Mixture(weights, torch.arange(float(channels)).expand(3, channels) + value, torch.ones(3, channels))


def history(epochs: int, channels: int = 4) -> History:
    recorded = History()
    for epoch in range(1, epochs + 1):
        recorded.record(epoch, 10 * epoch, {"a": 1 / epoch}, mixture(channels, epoch))
    return recorded


def saved(recorded: History) -> bytes:
    file = io.BytesIO()
    torch.save(recorded.state_dict(), file)
    return file.getvalue()


@pytest.mark.parametrize("epochs", [5, 20, 21, 30, 40, 50, 100, 250, 1000])
def test_mixtures_are_kept_near_every_fifth_of_the_training(epochs: int) -> None:
    kept = [snapshot.epoch for snapshot in history(epochs).snapshots]
    assert len(kept) <= MAX_SNAPSHOTS
    for fifth in range(1, 6):
        wanted = fifth * epochs / 5
        nearest = min(abs(epoch - wanted) for epoch in kept)
        assert nearest <= max(0.5, 0.05 * epochs)
        if epochs in (5, 20, 30, 40, 50, 100, 1000):
            assert nearest == 0


def test_every_epoch_is_kept_as_numbers() -> None:
    recorded = history(100)
    assert recorded.steps == list(range(10, 1001, 10))
    assert recorded.values["a"][9] == pytest.approx(0.1)


def test_numbers_that_come_and_go_are_nan_where_they_are_missing() -> None:
    recorded = History()
    for step, values in enumerate([{"a": 1.0}, {"a": 2.0, "b": 3.0}, {"b": 4.0}]):
        recorded.record(step + 1, step, values, None)
    assert recorded.values["a"][:2] == [1, 2]
    assert recorded.values["b"][1:] == [3, 4]
    assert math.isnan(recorded.values["a"][2])
    assert math.isnan(recorded.values["b"][0])


@pytest.mark.parametrize("per_channel", [False, True])
def test_channels_are_spread_over_the_layer(per_channel: bool) -> None:
    recorded = History()
    recorded.record(1, 1, {}, mixture(2048, 0.0, per_channel))
    (snapshot,) = recorded.snapshots
    assert len(recorded.channels) == len(set(recorded.channels)) == MAX_CHANNELS
    assert recorded.channels[0] == 0
    assert recorded.channels[-1] == 2047
    assert snapshot.mixture.means[0].tolist() == recorded.channels
    assert snapshot.mixture.weights.shape == ((3, MAX_CHANNELS) if per_channel else (3,))


@pytest.mark.parametrize(("total", "most"), [(1, 4), (4, 4), (5, 4), (2048, 4), (7, 1)])
def test_spreading(total: int, most: int) -> None:
    found = spread_evenly(total, most)
    assert len(found) == min(total, most)
    assert found == sorted(set(found))
    assert set(found) <= set(range(total))


def test_it_is_saved_and_goes_on() -> None:
    recorded = history(30)
    state = torch.load(io.BytesIO(saved(recorded)), weights_only=True)
    again = History.from_state_dict(state)
    for epoch in range(31, 61):
        for one in (recorded, again):
            one.record(epoch, 10 * epoch, {"a": 1 / epoch}, mixture(4, epoch))
    assert again.steps == recorded.steps
    assert again.values["a"] == pytest.approx(recorded.values["a"])
    assert [s.epoch for s in again.snapshots] == [s.epoch for s in recorded.snapshots]
    assert all(
        torch.equal(a.mixture.means, b.mixture.means) for a, b in zip(again.snapshots, recorded.snapshots, strict=True)
    )


def test_a_mixture_that_goes_on_changing_is_kept_as_it_was() -> None:
    recorded, changing = History(), mixture(4, 1.0)
    recorded.record(1, 1, {}, changing)
    for part in changing:
        part.zero_()
    assert all(float(part.abs().sum()) > 0 for part in recorded.snapshots[0].mixture)


def test_the_size_in_a_checkpoint() -> None:
    """What MixtureMonitor's docstring states, with 8 bytes for each step and 5 kB for the file around it."""
    stated = 4 * 20 * 3 * (2 * 64 + 1)
    assert 30_000 < stated < 31_000
    assert len(saved(history(100, channels=2048))) < stated + 100 * (8 + 4) + 5_000
