"""Evaluation changes no buffer, also where the input is not finite."""

import pytest
import torch
from helpers.layers import Case, assert_same, some_input, state

WITH_TORCH = True


@pytest.mark.parametrize("shape", [(8, 3, 4, 2), (1, 3), (1, 3, 1, 1)])
def test_no_buffer_changes(case: Case, shape: tuple[int, ...]) -> None:
    layer = case.in_use().eval()
    before = state(layer)
    layer(some_input(shape) * 9)
    layer(torch.full(shape, torch.nan))
    assert_same(state(layer), before)
