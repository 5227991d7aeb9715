"""mode_norm against the loops, torch's BatchNorm and finite differences."""

import pytest
import torch
from helpers import oracle
from helpers.functional_cases import (
    EPS,
    SHAPES,
    WIDER_SHAPES,
    affine_parameters,
    batch_norm_for,
    close,
    gate_parameters,
    grouped_input,
    outputs_and_gradients,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from mn_lightning import functional as F

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("state", ["training", "inference", "training without running moments", "no running moments"])
def test_mode_norm_against_the_loops(shape: tuple[int, ...], modes: int, state: str) -> None:
    x = grouped_input(shape).requires_grad_()
    tensors = (x, *gate_parameters(modes, shape[1]), *affine_parameters(shape[1]))
    cotangent = torch.randn_like(x)
    training = state.startswith("training")
    running = (None, None)
    if "without" not in state and "no " not in state:
        running = (torch.randn(modes, shape[1]).double(), torch.rand(modes, shape[1]).double() + 0.5)
    start = tuple(None if r is None else r.clone() for r in running)
    updated = {}

    def reference(x: Tensor, gate_weight: Tensor, gate_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, updated["mean"], updated["var"] = oracle.mode_norm(
            x, gate_weight, gate_bias, *start, weight, bias, training=training, momentum=0.3, eps=EPS
        )
        return y

    values = outputs_and_gradients(
        lambda x, gw, gb, w, b: F.mode_norm(x, gw, gb, *running, w, b, training=training, momentum=0.3, eps=EPS),
        tensors,
        cotangent,
    )
    for value, wanted in zip(values, outputs_and_gradients(reference, tensors, cotangent), strict=True):
        close(value, wanted, 1e-9)
    if running[0] is not None:
        close(running[0], updated["mean"], 1e-9)
        close(running[1], updated["var"], 1e-9)
        assert torch.equal(running[0], start[0]) == (not training)


@pytest.mark.parametrize("training", [True, False])
def test_mode_norm_without_affine_against_the_loops(training: bool) -> None:
    x, gate = grouped_input((5, 2, 3)), gate_parameters(2, 2)
    running = (torch.randn(2, 2).double(), torch.rand(2, 2).double() + 0.5)
    expected, *_ = oracle.mode_norm(x, *gate, *running, training=training)
    close(F.mode_norm(x, *gate, *(r.clone() for r in running), training=training).detach(), expected.detach(), 1e-9)


@pytest.mark.parametrize("modes", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", WIDER_SHAPES)
def test_constant_gates_are_batch_norm(shape: tuple[int, ...], dtype: torch.dtype, modes: int) -> None:
    """In training, and in evaluation after the same history."""
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    batch_norm = batch_norm_for(shape, eps=EPS, momentum=0.2, dtype=dtype)
    weight = (torch.rand(shape[1], dtype=dtype) + 0.5).requires_grad_()
    bias = torch.randn(shape[1], dtype=dtype).requires_grad_()
    running_mean, running_var = torch.zeros(modes, shape[1], dtype=dtype), torch.ones(modes, shape[1], dtype=dtype)
    # The gates of one mode are constant whatever W is.
    gate_weight = torch.zeros(modes, shape[1], dtype=dtype) if modes > 1 else torch.randn(1, shape[1], dtype=dtype)
    gate_bias = torch.randn(modes, dtype=dtype)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        moments = (running_mean, running_var)
        return F.mode_norm(
            x, gate_weight, gate_bias, *moments, weight, bias, batch_norm.training, momentum=0.2, eps=EPS
        )

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(batch_norm, {"weight": weight, "bias": bias}, (x,))

    for step in range(4):
        batch_norm.train(step < 3)
        x = (torch.randn(shape, dtype=dtype) * (1 + step) + step).requires_grad_()
        cotangent = torch.randn_like(x)
        values = outputs_and_gradients(norm, (x, weight, bias), cotangent)
        expected = outputs_and_gradients(reference, (x, weight, bias), cotangent)
        for value, wanted in zip(values, expected, strict=True):
            close(value, wanted, tolerance)
        close(running_mean, batch_norm.running_mean.expand(modes, -1), tolerance)
        close(running_var, batch_norm.running_var.expand(modes, -1), tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_mode_norm(training: bool) -> None:
    running = (torch.randn(2, 2).double(), torch.rand(2, 2).double() + 0.5)

    def norm(x: Tensor, gate_weight: Tensor, gate_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        moments = (r.clone() for r in running)
        return F.mode_norm(x, gate_weight, gate_bias, *moments, weight, bias, training=training, eps=EPS)

    for shape in [(4, 2), (3, 2, 2)]:
        tensors = (grouped_input(shape).requires_grad_(), *gate_parameters(2, 2), *affine_parameters(2))
        assert gradcheck(norm, tensors)
        assert gradgradcheck(norm, tensors)
