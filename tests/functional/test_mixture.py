"""The normalizations against the loops of ``oracle``, torch's own norm layers and finite differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import leaky_relu, relu

from mn_lightning import functional as F
from mn_lightning.gmm import Mixture
from mn_lightning.kernels.autograd import piecewise_affine, weighted_moments

pytestmark = pytest.mark.usefixtures("backend")

EPS = 1e-3  # not the default, so that one that is forgotten shows
SHAPES = [(9, 2), (3, 2, 3), (2, 3, 2, 2), (2, 2, 2, 1, 2)]
# (N, C) twice: once as it is, once with spatial dimensions of size 1 only, which is dense in every memory format.
WIDER_SHAPES = [(40, 3), (8, 4, 6), (4, 3, 5, 4), (3, 2, 3, 2, 4), (12, 3, 1, 1)]
GRANULARITIES: list[F.Granularity] = ["layer", "channel"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "relu": relu,
    "leaky": lambda x: leaky_relu(x, 0.2),
}


def close(value: Tensor, reference: Tensor | np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(value, torch.as_tensor(reference), rtol=tolerance, atol=tolerance)


def grouped_input(shape: tuple[int, ...], offset: float = 0.0) -> Tensor:
    """Samples around -2, 0.5 and 3, so that posteriors and gates are neither constant nor all 0 or 1."""
    centers = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
    sample = centers[torch.arange(shape[0]) % 3].reshape(-1, *(1 for _ in shape[1:]))
    return sample + 0.8 * torch.randn(shape, dtype=torch.float64) + offset


def mixture_of_three(channels: int, granularity: F.Granularity, offset: float = 0.0) -> oracle.Params:
    """Components near those of :func:`grouped_input`; the last is broad and holds few rows."""
    rng = np.random.default_rng(channels)
    means = np.array([-1.8, 2.5, 0.5])[:, None] + 0.2 * rng.standard_normal((3, channels)) + offset
    variances = np.array([1.5, 1.0, 9.0])[:, None] * rng.uniform(0.8, 1.2, (3, channels))
    weights = np.array([0.5, 0.45, 0.05])
    if granularity == "channel":
        weights = rng.dirichlet([50, 45, 5], channels).T.copy()
    return weights, means, variances


def to_mixture(params: oracle.Params, dtype: torch.dtype = torch.float64) -> Mixture:
    return Mixture(*(torch.from_numpy(p).to(dtype) for p in params))


def affine_parameters(channels: int) -> tuple[Tensor, Tensor]:
    weight = torch.rand(channels, dtype=torch.float64) + 0.5
    return weight.requires_grad_(), torch.randn(channels, dtype=torch.float64).requires_grad_()


def gate_parameters(modes: int, features: int | None) -> tuple[Tensor, Tensor]:
    shape = (modes,) if features is None else (modes, features)
    weight = torch.randn(shape, dtype=torch.float64)
    return weight.requires_grad_(), torch.randn(modes, dtype=torch.float64).requires_grad_()


def outputs_and_gradients(
    function: Callable[..., Tensor], tensors: tuple[Tensor, ...], cotangent: Tensor
) -> tuple[Tensor, ...]:
    y = function(*tensors)
    return y.detach(), *torch.autograd.grad(y, tensors, cotangent.to(y.dtype))


# --- mixture normalization ----------------------------------------------------------------------------------------


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


def batch_norm_for(shape: tuple[int, ...], **options: Any) -> nn.Module:
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    return layer(shape[1], **options)


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
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


# --- mode normalization -------------------------------------------------------------------------------------------


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


# --- mode group normalization -------------------------------------------------------------------------------------


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


# --- finite differences -------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2)])
def test_gradients_of_mode_group_norm(shape: tuple[int, ...]) -> None:
    tensors = (grouped_input(shape).requires_grad_(), *gate_parameters(2, None), *affine_parameters(shape[1]))
    assert gradcheck(F.mode_group_norm, tensors)
    assert gradgradcheck(F.mode_group_norm, tensors)


# --- Fisher vectors -----------------------------------------------------------------------------------------------


def test_fisher_vector_against_the_loops_and_autograd() -> None:
    x = grouped_input((8, 2))
    params = mixture_of_three(2, "layer")
    parts = F.fisher_vector(x, *to_mixture(params))
    references = (oracle.fisher_vector(x.numpy(), params), oracle.fisher_vector_by_autograd(x.numpy(), params))
    for expected in references:
        for part, reference in zip(parts, expected, strict=True):
            assert part.shape == (8, 3, 2)
            close(part, reference, 1e-9)


def test_fisher_vector_of_an_unused_component_is_zero() -> None:
    weights, means, variances = mixture_of_three(2, "layer")
    weights = np.array([0.6, 0.4, 0.0])
    x = grouped_input((8, 2))
    parts = F.fisher_vector(x, *to_mixture((weights, means, variances)))
    for part, reference in zip(parts, oracle.fisher_vector(x.numpy(), (weights, means, variances)), strict=True):
        assert (part[:, 2] == 0).all()
        close(part, reference, 1e-9)


def test_fisher_vector_of_one_gaussian_is_batch_norm() -> None:
    x = grouped_input((20, 3))
    var, mean = torch.var_mean(x, 0, correction=0)
    part, _ = F.fisher_vector(x, torch.ones(1).double(), mean[None], var[None] + EPS)
    close(part[:, 0], nn.BatchNorm1d(3, eps=EPS, affine=False).double()(x), 1e-9)


def test_sum_of_fisher_vectors_is_mixture_norm() -> None:
    x, params = grouped_input((10, 2)), mixture_of_three(2, "layer")
    total = F.fisher_vector(x, *to_mixture(params))[0].sum(1)
    close(total, F.mixture_norm(x, to_mixture(params), eps=0.0), 1e-9)
    close(total, oracle.mixture_norm(x, params, eps=0.0), 1e-9)


def test_fisher_vector_with_a_large_offset() -> None:
    x = grouped_input((10, 2), offset=1e4).float()
    params = mixture_of_three(2, "layer", offset=1e4)
    rounded = tuple(p.astype(np.float32).astype(np.float64) for p in params)
    parts = F.fisher_vector(x, *to_mixture(params, torch.float32))
    for part, reference in zip(parts, oracle.fisher_vector(x.double().numpy(), rounded), strict=True):
        close(part.double(), reference, 1e-2)


# --- numbers, memory and order ------------------------------------------------------------------------------------

NORMS = ["mixture layer", "mixture channel", "mixture relu", "mode", "mode group"]


def parameters(name: str, channels: int, training: bool, offset: float = 0.0) -> dict[str, Any]:
    """Arguments, the same in every call, that use all that a function can do; float64."""
    rng = torch.Generator().manual_seed(7)
    weight = torch.rand(channels, generator=rng, dtype=torch.float64) + 0.5
    affine = {"weight": weight, "bias": torch.randn(channels, generator=rng, dtype=torch.float64)}
    if name.startswith("mixture"):
        granularity: F.Granularity = "channel" if name == "mixture channel" else "layer"
        mixture = to_mixture(mixture_of_three(channels, granularity, offset))
        activation = relu if name == "mixture relu" else None
        extra = {"mixture": mixture, "training": training, "granularity": granularity, "activation": activation}
        return affine | extra
    gate_shape = (3, channels) if name == "mode" else (3,)
    gate_weight = torch.randn(gate_shape, generator=rng, dtype=torch.float64)
    # Without this the gates of an input with a large offset are constant, and their exponentials overflow.
    compensation = gate_weight * offset
    gate_bias = -(compensation.sum(-1) if name == "mode" else compensation)
    affine |= {"gate_weight": gate_weight, "gate_bias": gate_bias}
    if name == "mode":
        affine["running_mean"] = torch.randn(3, channels, generator=rng, dtype=torch.float64) + offset
        affine["running_var"] = torch.rand(3, channels, generator=rng, dtype=torch.float64) + 0.5
        affine["training"] = training
    return affine


def cast(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    out = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Mixture):
            out[name] = Mixture(*(p.to(dtype) for p in value))
        elif isinstance(value, Tensor):
            out[name] = value.to(dtype, copy=True)
    return out


def apply(name: str, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    function = {"mode": F.mode_norm, "mode group": F.mode_group_norm}.get(name, F.mixture_norm)
    return function(x, **arguments)


def apply_oracle(name: str, x: Tensor, arguments: dict[str, Any]) -> Tensor:
    if name == "mode":
        return oracle.mode_norm(x, **arguments)[0]
    if name == "mode group":
        return oracle.mode_group_norm(x, **arguments)
    arguments = dict(arguments)
    params = tuple(p.numpy() for p in arguments.pop("mixture"))
    return oracle.mixture_norm(x, params, **arguments)


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


def arrange(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "slice":
        big = torch.full((2 * x.shape[0], x.shape[1] + 1, *(2 * s for s in x.shape[2:])), 1e3, dtype=x.dtype)
        view = big[(slice(None, None, 2), slice(1, None), *(slice(None, None, 2) for _ in x.shape[2:]))]
        return view.copy_(x)
    if layout == "expanded":
        return x[:1].expand_as(x)
    return x.transpose(0, -1).contiguous().transpose(0, -1)


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


def test_the_gradient_of_a_weight_in_half_precision_is_that_of_float32() -> None:
    """Also where it is the difference of numbers beyond float16."""
    x = torch.full((2, 2), 1e4)
    gradients = []
    for dtype in (torch.float16, torch.float32):
        weight = torch.ones(2, dtype=dtype, requires_grad=True)
        F.mode_group_norm(x, torch.randn(1), torch.randn(1), weight).sum().backward()
        gradients.append(weight.grad.float())
    close(gradients[0], gradients[1], 1e-3)


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


# --- degenerate input ---------------------------------------------------------------------------------------------

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
        arguments["mixture"] = F.fit_mixture(x, 5, 3, torch.tensor(1), granularity=arguments["granularity"])
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


def test_one_value_per_sample() -> None:
    with pytest.raises(ValueError, match=r"more than one value per sample, got input of shape \(4, 1\)") as error:
        F.mode_group_norm(torch.randn(4, 1), torch.randn(2), torch.randn(2))
    assert "\n" not in str(error.value)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NORMS, "fit"])
@pytest.mark.parametrize(
    ("x", "given", "accepted"),
    [
        (torch.randn(3), "(3,)", "(N, C)"),
        (torch.randn(()), "()", "(N, C)"),
        (torch.zeros(4, 3, dtype=torch.long), "torch.int64", "floating point"),
        (torch.zeros(4, 3, dtype=torch.bool), "torch.bool", "floating point"),
        (torch.zeros(4, 3, dtype=torch.complex64), "torch.complex64", "floating point"),
    ],
)
def test_wrong_input(name: str, x: Tensor, given: str, accepted: str) -> None:
    def call() -> object:
        if name == "fit":
            return F.fit_mixture(x, 2, 2, torch.tensor(0))
        return apply(name, x, cast(parameters(name, 3, True), torch.float32))

    with pytest.raises(ValueError, match="it takes") as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert given in message
    assert accepted in message


@pytest.mark.parametrize(
    "shapes",
    [
        ((5,), (2,), (2, 3), (2, 3)),
        ((5, 3, 1), (2,), (2, 3), (2, 3)),
        ((5, 3), (3,), (2, 3), (2, 3)),
        ((5, 3), (2, 1), (2, 3), (2, 3)),
        ((5, 3), (2,), (2, 4), (2, 4)),
        ((5, 3), (2,), (2, 3), (2, 1)),
        ((5, 3), (2,), (2, 3), (3,)),
    ],
)
def test_wrong_shapes_for_fisher_vector(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="it takes") as error:
        F.fisher_vector(*(torch.ones(shape) for shape in shapes))
    message = str(error.value)
    assert "\n" not in message
    assert "(M, D), (K,), (K, D) and (K, D)" in message
    for shape in shapes:
        assert str(shape) in message
