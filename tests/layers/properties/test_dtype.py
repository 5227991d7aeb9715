"""Layers and input of any floating point dtype: computed in float32 at least, returned in the input's dtype."""

import pytest
import torch
from helpers.layers import Case, refit, some_input

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_layer_of_this_dtype(case: Case, dtype: torch.dtype) -> None:
    layer, reference = case.in_use(dtype=dtype), case.make(dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    values = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    floating = [value for value in values.values() if value.is_floating_point()]
    for name, value in values.items():
        statistic = name in getattr(layer, "statistics", ())  # in float32 at least
        if value.is_floating_point():
            assert value.dtype == (torch.promote_types(dtype, torch.float32) if statistic else dtype)
    x = (some_input() * 2 + 1).to(dtype).requires_grad_()
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 4 * torch.finfo(dtype).eps)
    for training in (False, True):  # training would round the running moments
        x.grad = None
        y, expected = layer.train(training)(x), reference.train(training)(x.double())
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
        y.sum().backward()
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    refit(layer)
    assert layer.eval()(x).isfinite().all()
    assert all(p.isfinite().all() for p in floating)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_input_of_this_dtype_for_a_layer_of_float32(case: Case, dtype: torch.dtype) -> None:
    """As autocast gives it: the result is that of float32, rounded."""
    layer, reference = case.in_use(), case.make(dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    x = some_input().to(dtype)
    tolerance = 2 * torch.finfo(dtype).eps
    for training in (False, True):
        y, expected = layer.train(training)(x), reference.train(training)(x.double())
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
