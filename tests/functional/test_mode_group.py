"""mode_group_norm against the loops, GroupNorm and finite differences."""

import pytest
import torch
from helpers import oracle
from helpers.functional_cases import (
    EPS,
    WIDER_SHAPES,
    affine_parameters,
    close,
    gate_parameters,
    grouped_input,
    outputs_and_gradients,
)
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from mn_lightning import functional as F

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 3), (2, 3, 2, 2), (2, 2, 2, 1, 2), (2, 1, 3)])
def test_mode_group_norm_against_the_loops(shape: tuple[int, ...], modes: int) -> None:
    x = grouped_input(shape).requires_grad_()
    tensors = (x, *gate_parameters(modes, None), *affine_parameters(shape[1]))
    cotangent = torch.randn_like(x)
    values = outputs_and_gradients(lambda *a: F.mode_group_norm(*a, eps=EPS), tensors, cotangent)
    expected = outputs_and_gradients(lambda *a: oracle.mode_group_norm(*a, eps=EPS), tensors, cotangent)
    for value, wanted in zip(values, expected, strict=True):
        close(value, wanted, 1e-9)
    close(F.mode_group_norm(*tensors[:3]).detach(), oracle.mode_group_norm(*tensors[:3]).detach(), 1e-9)


@pytest.mark.parametrize("modes", [1, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("shape", WIDER_SHAPES)
def test_constant_gates_are_group_norm(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, modes: int
) -> None:
    x = (torch.randn(shape, dtype=dtype) * 3 + 2).requires_grad_()
    weight = (torch.rand(shape[1], dtype=dtype) + 0.5).requires_grad_()
    bias = torch.randn(shape[1], dtype=dtype).requires_grad_()
    gate_weight = torch.zeros(modes, dtype=dtype) if modes > 1 else torch.randn(1, dtype=dtype)
    gate_bias = torch.randn(modes, dtype=dtype)
    cotangent = torch.randn_like(x)
    values = outputs_and_gradients(
        lambda x, w, b: F.mode_group_norm(x, gate_weight, gate_bias, w, b, eps=EPS), (x, weight, bias), cotangent
    )
    expected = outputs_and_gradients(
        lambda x, w, b: nn.functional.group_norm(x, 1, w, b, eps=EPS), (x, weight, bias), cotangent
    )
    for value, wanted in zip(values, expected, strict=True):
        close(value, wanted, tolerance)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2)])
def test_gradients_of_mode_group_norm(shape: tuple[int, ...]) -> None:
    tensors = (grouped_input(shape).requires_grad_(), *gate_parameters(2, None), *affine_parameters(shape[1]))
    assert gradcheck(F.mode_group_norm, tensors)
    assert gradgradcheck(F.mode_group_norm, tensors)


def test_the_gradient_of_a_weight_in_half_precision_is_that_of_float32() -> None:
    """Also where it is the difference of numbers beyond float16."""
    x = torch.full((2, 2), 1e4)
    gradients = []
    for dtype in (torch.float16, torch.float32):
        weight = torch.ones(2, dtype=dtype, requires_grad=True)
        F.mode_group_norm(x, torch.randn(1), torch.randn(1), weight).sum().backward()
        gradients.append(weight.grad.float())
    close(gradients[0], gradients[1], 1e-3)


def test_one_value_per_sample() -> None:
    with pytest.raises(ValueError, match=r"more than one value per sample, got input of shape \(4, 1\)") as error:
        F.mode_group_norm(torch.randn(4, 1), torch.randn(2), torch.randn(2))
    assert "\n" not in str(error.value)
