"""First and second derivatives of the differentiable pieces, by finite differences."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from mn_lightning.kernels.autograd import piecewise_affine, weighted_moments


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_weighted_moments(transposed: bool) -> None:
    """First and second ones, on weights that sum to 1 as the function asks."""
    x = torch.randn((2, 2, 2, 5) if transposed else (2, 2, 5, 2), dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True)

    def moments(x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        weights = logits.transpose(0, 1).flatten(0, 1).reshape(2, 2, 5, 3).exp()
        return weighted_moments(x.mT if transposed else x, weights / weights.sum((1, 2), keepdim=True))

    assert gradcheck(moments, (x, logits))
    assert gradgradcheck(moments, (x, logits))


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_piecewise_affine(transposed: bool) -> None:
    x = torch.randn((2, 2, 2, 5) if transposed else (2, 2, 5, 2), dtype=torch.float64, requires_grad=True)
    w = torch.rand(2, 2, 5, 3, dtype=torch.float64)
    slope, intercept = (torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bias = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)

    def mapped(x: Tensor, slope: Tensor, intercept: Tensor, bias: Tensor) -> Tensor:
        return piecewise_affine(x.mT if transposed else x, w, slope, intercept, bias)

    assert gradcheck(mapped, (x, slope, intercept, bias))
    assert gradgradcheck(mapped, (x, slope, intercept, bias))
