"""Gradients of gradients, as gradient penalties take them, against autograd through the loops."""

import pytest
import torch
from helpers import formula
from helpers.layers import Case, some_input
from torch import Tensor

pytestmark = pytest.mark.usefixtures("backend")


def penalty(y: Tensor, x: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of the squared length of a gradient, for ``x`` and the parameters."""
    (slope,) = torch.autograd.grad(y, x, formula.cotangent(y) + y.detach().sin(), create_graph=True)
    total = slope.square().sum() + (slope * y).sum()
    return torch.autograd.grad(total, [x, *parameters], allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("training", [True, False])
def test_of_a_gradient_penalty(case: Case, training: bool) -> None:
    layer = case.in_use(dtype=torch.float64).train(training)
    x = some_input((8, 3, 2, 2), torch.float64)
    parameters = formula.parameters_of(layer)
    exact = x.clone().requires_grad_()
    y, *_ = formula.apply(layer, exact, parameters, formula.next_mixture(layer, x))
    expected = penalty(y, exact, list(parameters.values()))
    x.requires_grad_()
    found = penalty(layer(x), x, list(layer.parameters()))
    assert expected[0].abs().max() > 0
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-7, atol=1e-7)
