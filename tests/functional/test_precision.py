"""Large offsets, half precision and autocast: what the norms lose is the rounding of the result."""

import pytest
import torch
from helpers import oracle
from helpers.functional_cases import (
    GRANULARITIES,
    NORMS,
    apply,
    apply_oracle,
    cast,
    close,
    grouped_input,
    mixture_of_three,
    parameters,
    to_mixture,
)
from torch import Tensor, nn

from mn_lightning import functional as F

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_large_offset_in_float32_against_the_loops_in_float64(name: str, training: bool) -> None:
    x = (torch.randn(6, 2, 4) + 1e4).float()
    arguments = cast(parameters(name, 2, training, 1e4), torch.float32)
    expected = apply_oracle(name, x.double(), cast(arguments, torch.float64))
    close(apply(name, x, arguments).double(), expected, 1e-2)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_large_offset_with_the_batchs_own_mixture(granularity: F.Granularity) -> None:
    """The whole of training, fit included, against both phases of the loops."""
    x = (torch.randn(9, 2, 3) + torch.arange(9).reshape(9, 1, 1) % 3 * 4 + 1e4).float()
    step = torch.tensor(1)
    y = F.mixture_norm(x, F.fit_mixture(x, 3, 2, step, 1e-5, granularity), training=True, granularity=granularity)
    # As in float64 the fit is exact, float64 takes the same decisions without the rounding.
    exact = F.fit_mixture(x.double(), 3, 2, step, 1e-5, granularity)
    params = tuple(p.numpy() for p in exact)
    expected = oracle.mixture_norm(x.double(), params, training=True, granularity=granularity)
    close(y.double(), expected, 1e-2)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_large_offset_with_one_component_is_batch_norm(granularity: F.Granularity) -> None:
    x = torch.randn(16, 3, 8, 8) + 1e4
    mixture = F.fit_mixture(x, 1, 2, torch.tensor(0), 1e-5, granularity)
    expected = nn.BatchNorm2d(3, affine=False).double()(x.double())
    close(F.mixture_norm(x, mixture, training=True, granularity=granularity).double(), expected, 1e-2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_only_the_rounding_of_the_result(dtype: torch.dtype, name: str, training: bool) -> None:
    x = grouped_input((6, 3, 8)).to(dtype)
    arguments = cast(parameters(name, 3, training), torch.float32)
    y = apply(name, x, cast(arguments, torch.float32))
    assert y.dtype == dtype
    assert y.isfinite().all()
    expected = apply_oracle(name, x.double(), cast(arguments, torch.float64))
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)
    # Parameters in half precision too, as after module.half().
    low = cast(arguments, dtype)
    expected = apply_oracle(name, x.double(), cast(low, torch.float64))
    y = apply(name, x, low)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision(dtype: torch.dtype, name: str) -> None:
    x = grouped_input((6, 3, 8)).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    cotangent = torch.randn_like(x)
    arguments = cast(parameters(name, 3, True), torch.float32)
    value = torch.autograd.grad(apply(name, x, cast(arguments, torch.float32)), x, cotangent)[0]
    assert value.dtype == dtype
    expected = torch.autograd.grad(
        apply_oracle(name, exact, cast(arguments, torch.float64)), exact, cotangent.double()
    )[0]
    torch.testing.assert_close(value.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 1), (4, 3, 1, 1), (4, 3, 5), (4, 3, 2, 2)])
def test_half_precision_of_some_rows_of_a_tensor(shape: tuple[int, ...], name: str, training: bool) -> None:
    """As the first token of each sequence under autocast, x[:, 0]: the copy in float32 has other strides."""
    x = grouped_input(shape).bfloat16()
    part = torch.stack([x, x + 1], 1)[:, 0]
    assert not part.is_contiguous()
    expected, value = (apply(name, t, cast(parameters(name, 3, training), torch.float32)) for t in (x, part))
    close(value.float(), expected.float(), 1e-2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_autocast_does_not_lower_the_precision(name: str, training: bool) -> None:
    x = grouped_input((6, 3, 8)).float().requires_grad_()
    arguments = cast(parameters(name, 3, training), torch.float32)

    def run() -> Tensor:
        return apply(name, x, cast(arguments, torch.float32))

    def gradient(y: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, x.detach().cos(), retain_graph=True)[0]

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.mT).dtype == torch.bfloat16  # autocast is on
        value = run()
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(gradient(value), gradient(expected))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_autocast_does_not_lower_the_precision_of_the_backward_pass(name: str, training: bool) -> None:
    """Lightning's manual_backward, which GANs use, runs inside training_step and so under autocast."""
    x = grouped_input((6, 3, 8)).float().requires_grad_()
    y = apply(name, x, cast(parameters(name, 3, training), torch.float32))
    expected = torch.autograd.grad(y, x, x.detach().cos(), retain_graph=True)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = torch.autograd.grad(y, x, x.detach().cos())[0]
    close(value, expected, 1e-5)


def test_autocast_does_not_lower_the_precision_of_the_other_functions() -> None:
    x = grouped_input((12, 3)).float()
    mixture = to_mixture(mixture_of_three(3, "layer"), torch.float32)

    def run() -> tuple[Tensor, ...]:
        fitted = F.fit_mixture(x, 3, 4, torch.tensor(0))
        return *fitted, *F.mixture_moments(x, mixture), *F.fisher_vector(x, *mixture)

    expected = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = run()
    for value, reference in zip(values, expected, strict=True):
        assert torch.equal(value, reference)
