"""A batch without samples or pixels comes back as it does from BatchNorm, in training and in evaluation."""

import pytest
import torch
from helpers.layers import Case, assert_same, state


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5), (0, 3, 4, 2), (0, 3, 2, 2, 2), (2, 3, 0)])
def test_without_samples_or_pixels(case: Case, shape: tuple[int, ...], training: bool) -> None:
    layer = case.in_use().train(training)
    layer.zero_grad()
    before = state(layer)
    x = torch.zeros(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
    for parameter in layer.parameters():  # each takes part, as DDP asks for
        assert parameter.grad is not None
        assert not parameter.grad.any()
    assert_same(state(layer), before)
