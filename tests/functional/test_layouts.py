"""Strides, memory formats and the order of a batch have no influence; nothing that was given is written to."""

import pytest
import torch
from helpers.functional_cases import (
    GRANULARITIES,
    NORMS,
    apply,
    apply_oracle,
    arrange,
    cast,
    close,
    grouped_input,
    parameters,
)
from torch import Tensor

from mn_lightning import functional as F
from mn_lightning.gmm import Mixture

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["channels_last", "slice", "transposed", "expanded"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (3, 2, 2, 3, 2)])
def test_output_does_not_depend_on_the_memory_format(
    shape: tuple[int, ...], layout: str, name: str, training: bool
) -> None:
    x = grouped_input(shape).float()
    x = x[:1].expand_as(x).clone() if layout == "expanded" else x
    arguments = cast(parameters(name, shape[1], training), torch.float32)
    other = arrange(x, layout)
    assert torch.equal(x, other)
    assert not other.is_contiguous()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = apply(name, x, cast(arguments, torch.float32))
        return y.detach(), torch.autograd.grad(y, x, y.detach().cos())[0]

    for value, expected in zip(run(other), run(x), strict=True):
        close(value, expected, 1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (3, 2, 2, 3, 2)])
@pytest.mark.parametrize("direction", ["output", "gradient"])
def test_memory_format_is_kept(direction: str, shape: tuple[int, ...], layout: str, name: str, training: bool) -> None:
    """Also by the gradient: the convolution before the layer would have to convert it."""
    memory_format = torch.contiguous_format
    if layout == "channels_last":
        memory_format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = grouped_input(shape).float().contiguous(memory_format=memory_format).requires_grad_()
    y = apply(name, x, cast(parameters(name, shape[1], training), torch.float32))
    if direction == "output":
        assert y.is_contiguous(memory_format=memory_format), y.stride()
    else:
        cotangent = torch.randn(shape).contiguous(memory_format=memory_format)
        dx = torch.autograd.grad(y, x, cotangent)[0]
        assert dx.is_contiguous(memory_format=memory_format), dx.stride()


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("layout", ["slice", "transposed"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_output_does_not_depend_on_the_strides_of_lower_ranks(shape: tuple[int, ...], layout: str, name: str) -> None:
    x = grouped_input(shape)
    arguments = parameters(name, shape[1], training=True)
    other = arrange(x, layout)
    assert not other.is_contiguous()
    y = apply(name, other, cast(arguments, torch.float64))
    close(y, apply_oracle(name, x, arguments), 1e-9)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("layout", ["channels_last", "slice", "transposed"])
def test_the_fit_does_not_depend_on_the_memory_format(layout: str, granularity: F.Granularity) -> None:
    x = grouped_input((12, 3, 4, 2))
    fitted = F.fit_mixture(arrange(x, layout), 3, 4, torch.tensor(2), granularity=granularity)
    for value, reference in zip(fitted, F.fit_mixture(x, 3, 4, torch.tensor(2), granularity=granularity), strict=True):
        close(value, reference, 1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_order_of_the_batch_does_not_matter(name: str, training: bool) -> None:
    x = grouped_input((7, 3, 4))
    order = torch.randperm(7)
    arguments, permuted = (cast(parameters(name, 3, training), torch.float64) for _ in range(2))
    close(apply(name, x[order], permuted), apply(name, x, arguments)[order], 1e-12)
    if name == "mode":
        for buffer in ("running_mean", "running_var"):
            close(permuted[buffer], arguments[buffer], 1e-12)


def test_inputs_and_parameters_are_not_written_to() -> None:
    for name in NORMS:
        x = grouped_input((6, 3, 2))
        arguments = parameters(name, 3, training=name != "mode")  # mode_norm updates the running moments in training
        kept, copy = x.clone(), cast(arguments, torch.float64)
        apply(name, x, arguments)
        assert torch.equal(x, kept)
        for key, value in arguments.items():
            if isinstance(value, Tensor):
                assert torch.equal(value, copy[key])
            elif isinstance(value, Mixture):
                assert all(torch.equal(a, b) for a, b in zip(value, copy[key], strict=True))
