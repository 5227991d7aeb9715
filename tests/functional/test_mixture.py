"""mixture_norm against the loops, torch's BatchNorm and finite differences."""

from typing import Any

import pytest
import torch
from helpers import oracle
from helpers.functional_cases import (
    ACTIVATIONS,
    EPS,
    GRANULARITIES,
    SHAPES,
    WIDER_SHAPES,
    affine_parameters,
    batch_norm_for,
    close,
    grouped_input,
    mixture_of_three,
    outputs_and_gradients,
    to_mixture,
)
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from mn_lightning import functional as F
from mn_lightning.gmm import Mixture

pytestmark = pytest.mark.usefixtures("backend")


def check_mixture_norm(x: Tensor, params: oracle.Params, **options: Any) -> None:
    weight, bias = affine_parameters(x.shape[1])
    tensors = (x.requires_grad_(), weight, bias)
    cotangent = torch.randn_like(x)
    values = outputs_and_gradients(
        lambda a, b, c: F.mixture_norm(a, to_mixture(params), b, c, eps=EPS, **options), tensors, cotangent
    )
    expected = outputs_and_gradients(
        lambda a, b, c: oracle.mixture_norm(a, params, b, c, eps=EPS, **options), tensors, cotangent
    )
    for value, reference in zip(values, expected, strict=True):
        close(value, reference, 1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("affine", ["output", "component"])
@pytest.mark.parametrize("scale", ["sqrt", "unit"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mixture_norm_against_the_loops(
    training: bool, granularity: F.Granularity, affine: F.Affine, scale: F.Scale, activation: str
) -> None:
    check_mixture_norm(
        grouped_input((3, 2, 3)),
        mixture_of_three(2, granularity),
        training=training,
        granularity=granularity,
        affine=affine,
        scale=scale,
        activation=ACTIVATIONS[activation],
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_mixture_norm_of_all_ranks_against_the_loops(
    training: bool, granularity: F.Granularity, shape: tuple[int, ...]
) -> None:
    params = mixture_of_three(shape[1], granularity)
    check_mixture_norm(grouped_input(shape), params, training=training, granularity=granularity)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_mixture_norm_with_a_pruned_component_against_the_loops(granularity: F.Granularity, activation: str) -> None:
    x, params = grouped_input((12, 2)), mixture_of_three(2, granularity)
    columns = [slice(None)] if granularity == "layer" else [slice(c, c + 1) for c in range(2)]
    for c, column in enumerate(columns):
        one = (params[0] if granularity == "layer" else params[0][:, c], params[1][:, column], params[2][:, column])
        joint = oracle.log_joint(x.numpy()[:, column], one, EPS)
        # The third component is dropped although it has a share: leaving ν as it was would not go unseen.
        assert oracle.prune(joint, 0.0)[1][2] > 1e-3
        assert (oracle.prune(joint, 0.25)[1] > 0).tolist() == [True, True, False]
    check_mixture_norm(
        x, params, training=True, granularity=granularity, min_weight=0.25, activation=ACTIVATIONS[activation]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_inference_with_an_unused_component_against_the_loops(granularity: F.Granularity, activation: str) -> None:
    weights, means, variances = mixture_of_three(2, granularity)
    weights[2] = 0
    weights /= weights.sum(0)
    means[2], variances[2] = 0, 0  # where a pruned component is stored
    check_mixture_norm(
        grouped_input((9, 2)), (weights, means, variances), granularity=granularity, activation=ACTIVATIONS[activation]
    )


@pytest.mark.parametrize("training", [True, False])
def test_mixture_norm_without_affine_against_the_loops(training: bool) -> None:
    x, params = grouped_input((9, 2)), mixture_of_three(2, "layer")
    for affine in ("output", "component"):
        y = F.mixture_norm(x, to_mixture(params), training=training, affine=affine)
        close(y, oracle.mixture_norm(x, params, training=training), 1e-9)
    weight, bias = affine_parameters(2)
    for one in ({"weight": weight}, {"bias": bias}):
        y = F.mixture_norm(x, to_mixture(params), training=training, **one)
        close(y, oracle.mixture_norm(x, params, training=training, **one), 1e-9)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "activation"),
    [(torch.float32, 1e-5, "none"), (torch.float64, 1e-9, "none"), (torch.float64, 1e-9, "relu")],
)
@pytest.mark.parametrize("shape", WIDER_SHAPES)
def test_one_component_is_batch_norm(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, granularity: F.Granularity, activation: str
) -> None:
    x = (torch.randn(shape, dtype=dtype) * 3 + 2).requires_grad_()
    weight = (torch.rand(shape[1], dtype=dtype) + 0.5).requires_grad_()
    bias = torch.randn(shape[1], dtype=dtype).requires_grad_()
    cotangent = torch.randn_like(x)
    batch_norm = batch_norm_for(shape, eps=EPS, dtype=dtype)
    act = ACTIVATIONS[activation]

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mixture = F.fit_mixture(x, 1, 2, torch.tensor(0), EPS, granularity)
        return F.mixture_norm(x, mixture, weight, bias, training=True, eps=EPS, granularity=granularity, activation=act)

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.func.functional_call(batch_norm, {"weight": weight, "bias": bias}, (x,))
        return y if act is None else act(y)

    values = outputs_and_gradients(norm, (x, weight, bias), cotangent)
    expected = outputs_and_gradients(reference, (x, weight, bias), cotangent)
    for value, wanted in zip(values, expected, strict=True):
        close(value, wanted, tolerance)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", WIDER_SHAPES)
def test_one_stored_component_is_batch_norm_in_evaluation(shape: tuple[int, ...], granularity: F.Granularity) -> None:
    batch_norm = batch_norm_for(shape, eps=EPS, dtype=torch.float64).eval()
    nn.init.uniform_(batch_norm.running_var, 0.5, 2)
    nn.init.normal_(batch_norm.running_mean)
    x = torch.randn(shape, dtype=torch.float64)
    weights = torch.ones((1,) if granularity == "layer" else (1, shape[1]), dtype=torch.float64)
    mixture = Mixture(weights, batch_norm.running_mean[None], batch_norm.running_var[None])
    close(F.mixture_norm(x, mixture, eps=EPS, granularity=granularity), batch_norm(x).detach(), 1e-9)


@pytest.mark.parametrize("affine", ["output", "component"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("kind", ["one component", "far apart"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_mixture_norm(training: bool, kind: str, granularity: F.Granularity, affine: F.Affine) -> None:
    """Where no posterior changes with x, so that finite differences do not see that ν is kept out of the graph."""
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    if kind == "one component":
        weights, means = torch.ones(1).double(), torch.zeros(1, 2).double()
    else:
        x[0] += 100
        x[1] -= 100
        weights, means = torch.full((3,), 1 / 3).double(), torch.tensor([[100.0] * 2, [-100.0] * 2, [0.0] * 2]).double()
    if granularity == "channel":
        weights = weights[:, None].expand(-1, 2)
    mixture = Mixture(weights, means, torch.ones_like(means))

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.mixture_norm(x, mixture, weight, bias, training, EPS, affine, granularity)

    tensors = (x.requires_grad_(), *affine_parameters(2))
    assert gradcheck(norm, tensors)
    assert gradgradcheck(norm, tensors)
