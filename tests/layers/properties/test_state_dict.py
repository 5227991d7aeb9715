"""A state dict holds all that a layer goes on from."""

import copy

import pytest
import torch
from helpers.layers import Case, some_input

WITH_TORCH = True


@pytest.mark.parametrize("assign", [False, True])
def test_round_trip(case: Case, assign: bool) -> None:
    layer, fresh = case.in_use(), case.make()
    fresh(some_input())  # whatever is not loaded shows
    saved = copy.deepcopy(layer.state_dict())
    fresh.load_state_dict(saved, assign=assign)
    x = some_input()
    assert torch.equal(fresh.eval()(x), layer.eval()(x))
    for _ in range(2):  # the same random numbers as an uninterrupted run
        x = some_input((30, 3, 4, 2))
        y = layer.train()(x)
        torch.rand(5)
        assert torch.equal(y, fresh.train()(x))
    assert list(fresh.state_dict()) == list(saved)


def test_what_is_saved_is_small(case: Case) -> None:
    """No queue in it."""
    assert sum(value.numel() for value in case.in_use().state_dict().values()) < 50


def test_another_number_of_channels_is_refused(case: Case) -> None:
    if case.make().state_dict().keys() - {"gate.weight", "gate.bias", "num_batches_tracked"}:
        with pytest.raises(RuntimeError, match="size mismatch"):
            case.make(4).load_state_dict(case.make().state_dict())
