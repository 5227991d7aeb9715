"""Copies and pickles of a layer go on as it does, and apart from it."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from helpers.layers import Case, assert_same, refit, some_input, state
from torch import nn

WITH_TORCH = True


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_go_on_alike_and_apart(case: Case, copier: Callable[[nn.Module], nn.Module]) -> None:
    layer = case.in_use()
    other = copier(layer)
    x = some_input()
    assert torch.equal(layer(x), other(x))
    refit(layer)  # the copy's queue is its own
    assert getattr(other, "stale", True)
    refit(other)
    assert torch.equal(layer.eval()(x), other.eval()(x))
    before = state(other)
    layer.train()(some_input())
    assert_same(state(other), before)
