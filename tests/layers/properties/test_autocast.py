"""Autocast does not lower the precision of a norm, forward or backward, and nothing overflows."""

import pytest
import torch
from helpers.layers import Case, assert_same, outcome, some_input, state

WITH_TORCH = True


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_all_is_that_of_float32(case: Case, dtype: torch.dtype, training: bool) -> None:
    layer, other = case.in_use().train(training), case.make().train(training)
    other.load_state_dict(layer.state_dict())
    x = some_input()
    expected = outcome(layer, x)
    with torch.autocast("cpu", dtype=dtype):
        assert (x[0, 0] @ x[0, 0].mT).dtype == dtype  # autocast is on
        found = outcome(other, x)
    assert found["output"].dtype == torch.float32
    assert_same(found, expected, 1e-5)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, layer.state_dict()[name], rtol=1e-5, atol=1e-5)


def test_a_layer_behind_one_that_autocast_lowers(case: Case) -> None:
    layer = case.in_use()
    before = state(layer)
    convolution = torch.nn.Conv2d(2, 3, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(convolution(some_input((8, 2, 4, 2))))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert convolution.weight.grad.isfinite().all()
    assert {name: value.dtype for name, value in state(layer).items()} == {n: v.dtype for n, v in before.items()}
