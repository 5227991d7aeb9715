"""Input with few rows, equal rows, or rows far from all components."""

import pytest
import torch
from helpers.functional_cases import GRANULARITIES, NORMS, apply, cast, close, mixture_of_three, parameters, to_mixture

from mn_lightning import functional as F

pytestmark = pytest.mark.usefixtures("backend")

DEGENERATE = {
    "constant": torch.full((6, 3, 2), 2.5),
    "large constant": torch.full((6, 3, 2), 1e4),
    "zero": torch.zeros(6, 3, 2),
    "two rows": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "two distinct rows": torch.tensor([[0.0, 1, 2], [3, 4, 5]]).repeat(5, 1),
    "one outlier": torch.cat([torch.zeros(19, 3), torch.full((1, 3), 6e4)]),
    "tiny": torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(0)) * 1e-7,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_input_gives_finite_output_and_gradients(case: str, name: str, dtype: torch.dtype) -> None:
    x = DEGENERATE[case].to(dtype).requires_grad_()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    arguments = cast(parameters(name, 3, training=True), wide)
    if name.startswith("mixture"):
        arguments["mixture"] = F.fit_mixture(x, 3, 3, torch.tensor(1), granularity=arguments["granularity"])
    y = apply(name, x, arguments)
    assert y.isfinite().all()
    assert torch.autograd.grad(y.sum() + y.square().mean(), x)[0].isfinite().all()
    if name == "mode":
        assert arguments["running_mean"].isfinite().all()
        assert arguments["running_var"].isfinite().all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_constant_input_is_normalized_to_the_bias(granularity: F.Granularity) -> None:
    x, bias = torch.full((6, 3, 2), 2.5), torch.randn(3)
    expected = bias[:, None].expand(6, 3, 2)
    tolerance = 1e-3  # one rounding of 2.5 over sqrt(eps) is 1e-4
    mixture = F.fit_mixture(x, 4, 2, torch.tensor(0), granularity=granularity)
    close(F.mixture_norm(x, mixture, None, bias, training=True, granularity=granularity), expected, tolerance)
    close(F.mode_norm(x, torch.randn(2, 3), torch.randn(2), bias=bias, training=True), expected, tolerance)
    close(F.mode_group_norm(x, torch.randn(2), torch.randn(2), bias=bias), expected, tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_rows_far_from_all_components_stay_finite(training: bool) -> None:
    x = torch.tensor([[1e6, -1e6], [0.1, 0.2], [3e4, 1.0], [-0.3, 0.4]], requires_grad=True)
    mixture = to_mixture(mixture_of_three(2, "layer"), torch.float32)
    y = F.mixture_norm(x, mixture, training=training)
    assert y.isfinite().all()
    assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2), (1, 3), (1, 3, 1, 1), (2, 3, 0)])
def test_too_few_rows(shape: tuple[int, ...], name: str) -> None:
    """An error in training, as BatchNorm's; none in evaluation, nor where no moments of the batch are taken."""
    x = torch.zeros(shape)
    if name != "mode group":
        with pytest.raises(ValueError, match="more than one value per channel") as error:
            apply(name, x, cast(parameters(name, 3, True), torch.float32))
        assert "\n" not in str(error.value)
        assert str(shape) in str(error.value)
    y = apply(name, x, cast(parameters(name, 3, False), torch.float32))
    assert y.shape == shape
    assert y.isfinite().all()
