"""Parameters and buffers may come from outside, as ``torch.func`` gives them."""

import pytest
import torch
from helpers.layers import Case, assert_same, some_input, state
from torch import Tensor, nn
from torch.func import functional_call, grad

WITH_TORCH = True


@pytest.mark.parametrize("training", [True, False])
def test_called_with_state_from_outside(case: Case, training: bool) -> None:
    layer, other = (make(dtype=torch.float64).train(training) for make in (case.make, case.in_use))
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    before = state(layer)
    parameters, buffers = dict(other.named_parameters()), state(other)
    x = some_input((8, 3, 4), torch.float64)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        given = {name: value.clone() for name, value in buffers.items()}
        return functional_call(layer, {**parameters, **given}, (x,)).pow(3).sum()

    gradients = grad(loss)(parameters)
    y = functional_call(layer, {**parameters, **buffers}, (x,))
    expected = other(x)
    expected.pow(3).sum().backward() if expected.requires_grad else None
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-8)
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-8)
    assert_same(buffers, state(other), 1e-8)  # what was given has been updated
    assert_same(state(layer), before)  # and the layer's own has not
