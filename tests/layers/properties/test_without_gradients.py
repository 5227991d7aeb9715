"""Passes without gradients compute what others compute, and leave no graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.layers import Case, some_input

WITH_TORCH = True


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(case: Case, training: bool, mode: Callable[[], Any]) -> None:
    layer, other = (case.in_use().train(training) for _ in range(2))
    other.load_state_dict(layer.state_dict())
    x = some_input()
    with mode():
        y = layer(x.clone())
    assert not y.requires_grad
    torch.testing.assert_close(y, other(x).detach(), rtol=1e-5, atol=1e-5)
    assert not any(buffer.requires_grad for buffer in layer.buffers())
