"""ModeNorm against BatchNorm, the loops and the published formula."""

from typing import Any

import pytest
import torch
from helpers import oracle
from torch import Tensor, nn

from mn_lightning.layers import ModeNorm

SHAPES = {
    (6, 3): nn.BatchNorm1d,
    (6, 3, 5): nn.BatchNorm1d,
    (6, 3, 4, 2): nn.BatchNorm2d,
    (6, 3, 2, 2, 3): nn.BatchNorm3d,
}


def close(value: Tensor, reference: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(value, reference, rtol=tolerance, atol=tolerance)


def test_training_and_evaluation_against_the_loops() -> None:
    layer = ModeNorm(2, 3, eps=1e-3, momentum=0.3, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    gate = (layer.gate.weight, layer.gate.bias)
    running = (torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64))
    for step in range(4):
        training = step < 3
        x = torch.randn(4, 2, 3, dtype=torch.float64) * 2 + torch.randn(4, 1, 1, dtype=torch.float64)
        expected, *running = oracle.mode_norm(
            x, *gate, *running, layer.weight, layer.bias, training=training, momentum=0.3, eps=1e-3
        )
        close(layer.train(training)(x).detach(), expected.detach(), 1e-9)
        close(layer.running_mean, running[0], 1e-9)
        close(layer.running_var, running[1], 1e-9)


@pytest.mark.parametrize("momentum", [0.1, None, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_constant_gates_are_batch_norm_after_the_same_history(
    shape: tuple[int, ...], modes: int, dtype: torch.dtype, momentum: float | None
) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    batch_norm = SHAPES[shape](3, momentum=momentum, dtype=dtype)
    layer = ModeNorm.from_batch_norm(batch_norm, n_components=modes)
    assert layer.momentum == momentum
    if modes > 1:
        nn.init.zeros_(layer.gate.weight)
        nn.init.normal_(layer.gate.bias)
    for step in range(5):
        x = torch.randn(shape, dtype=dtype) * (1 + step) + step
        close(layer(x).detach(), batch_norm(x).detach(), tolerance)
    assert layer.num_batches_tracked == batch_norm.num_batches_tracked
    close(layer.running_mean, batch_norm.running_mean.expand(modes, -1), tolerance)
    close(layer.running_var, batch_norm.running_var.expand(modes, -1), tolerance)
    x = torch.randn(shape, dtype=dtype)
    close(layer.eval()(x).detach(), batch_norm.eval()(x).detach(), tolerance)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_total_variance_is_that_of_algorithm_1(momentum: float | None) -> None:
    """Of the running means of x and x² as printed, in evaluation too."""
    layer = ModeNorm(3, 2, momentum=momentum, running="total", dtype=torch.float64)
    nn.init.normal_(layer.gate.weight)
    gate = (layer.gate.weight, layer.gate.bias)
    first = torch.zeros(2, 3, dtype=torch.float64)
    second = torch.ones(2, 3, dtype=torch.float64)  # a mean of 0 and a variance of 1
    for step in range(5):
        x = torch.randn(4, 3, 2, dtype=torch.float64) + 2 * torch.randn(3, 1, dtype=torch.float64)
        weights = torch.stack([torch.softmax(gate[0] @ sample.mean(1) + gate[1], 0) for sample in x]).detach()
        weights = weights / weights.sum(0)
        share = 1 / (step + 1) if momentum is None else momentum
        first = (1 - share) * first + share * torch.einsum("nk,nc->kc", weights, x.mean(2))
        second = (1 - share) * second + share * torch.einsum("nk,nc->kc", weights, x.square().mean(2))
        layer(x)
    close(layer.running_mean, first, 1e-9)
    close(layer.running_var, second - first**2, 1e-9)


def test_the_total_variance_keeps_its_digits_where_the_mean_is_large() -> None:
    layer = ModeNorm(3, 2, momentum=0.5, running="total")
    for _ in range(60):
        layer(1e4 + torch.randn(64, 3, 8))
    assert (layer.running_var - 1).abs().max() < 0.1


def test_another_running_variance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^ModeNorm got running='both'; it takes one of 'within', 'total'$"):
        ModeNorm(3, running="both")


def test_cumulative_average_goes_on_where_batch_norm_was() -> None:
    batch_norm = nn.BatchNorm1d(3, momentum=None)
    for _ in range(4):
        batch_norm(torch.randn(20, 3))
    layer = ModeNorm.from_batch_norm(batch_norm, n_components=1)
    x = torch.randn(20, 3) + 5
    layer(x)
    batch_norm(x)
    close(layer.running_mean[0], batch_norm.running_mean, 1e-6)
    close(layer.running_var[0], batch_norm.running_var, 1e-6)


def test_gates_start_nearly_uniform() -> None:
    layer = ModeNorm(2000, 4)
    noise = layer.gate.weight - 1 / 4
    assert noise.mean().abs() < 0.001
    assert 0.0095 < noise.std() < 0.0105
    assert (layer.gate.bias == 0).all()


@pytest.mark.parametrize("used", [0, 2])
@pytest.mark.parametrize("shape", [(16, 4), (16, 4, 3, 3)])
def test_modes_that_no_sample_uses_survive_the_papers_optimizer(shape: tuple[int, ...], used: int) -> None:
    bias = torch.full((3,), -1000.0)
    bias[used] = 0
    layer = ModeNorm(4, 3)
    layer.gate.bias.data.copy_(bias)
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(50, *shape)
    gates = layer.gate(x[0].reshape(16, 4, -1).mean(-1)).softmax(-1)
    assert (gates.sum(0) == 0).sum() == 2  # N_k underflows to exactly 0 in two modes
    # Dividing by N_k as published is 0 / 0 there, in float64 too.
    literal, *_ = oracle.mode_norm(x[0].double(), layer.gate.weight.double(), layer.gate.bias.double(), training=True)
    assert literal.isnan().all()
    target = torch.randn(shape)
    for batch in x:
        optimizer.zero_grad()
        y = layer(batch)
        assert y.isfinite().all()
        (y - target).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        optimizer.step()
        assert all(value.isfinite().all() for value in layer.state_dict().values())
    assert layer.eval()(x[0]).isfinite().all()


@pytest.mark.parametrize("logit", [1e3, 1e30])
def test_hard_gates_normalize_each_mode_by_itself(logit: float) -> None:
    """Samples of two kinds, told apart without doubt: each kind is standardized with its own moments."""
    layer = ModeNorm(2, 2, affine=False)
    layer.gate.weight.data.copy_(torch.tensor([[logit, 0.0], [-logit, 0.0]]))
    x = torch.randn(40, 2, 6)
    x[:20] = x[:20] * 3 + 10
    x[20:] -= 10
    y = layer(x)
    for half in (slice(20), slice(20, 40)):
        close(y[half], nn.BatchNorm1d(2, affine=False)(x[half]), 1e-4)


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ({"num_features": 0}, "num_features >= 1"),
        ({"n_components": 0}, "n_components >= 1"),
        ({"n_components": -2}, "n_components >= 1"),
        ({"momentum": -0.1}, "0 <= momentum <= 1"),
        ({"momentum": 1.5}, "0 <= momentum <= 1"),
        ({"momentum": float("nan")}, "0 <= momentum <= 1"),
        ({"momentum": "x"}, "0 <= momentum <= 1"),
        ({"n_components": True}, "n_components >= 1"),
        ({"eps": -1}, "eps >= 0"),
        ({"eps": float("nan")}, "eps >= 0"),
        ({"sync": "x"}, "True or False"),
        ({"affine": "output"}, "True or False"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], accepted: str) -> None:
    with pytest.raises(ValueError, match="it takes") as error:
        ModeNorm(**({"num_features": 3} | arguments))
    (given,) = arguments.items()
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"ModeNorm got {given[0]}={given[1]!r}")
    assert accepted in message


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_too_few_values_change_no_running_moment(shape: tuple[int, ...]) -> None:
    layer = ModeNorm(3)
    layer(torch.randn(8, 3))
    before = (layer.running_mean.clone(), layer.running_var.clone())
    with pytest.raises(ValueError, match="more than one value per channel") as error:
        layer(torch.zeros(shape))
    assert "\n" not in str(error.value)
    assert torch.equal(layer.running_mean, before[0])
    assert torch.equal(layer.running_var, before[1])


@pytest.mark.parametrize("affine", [True, False])
def test_state_dict_round_trip(affine: bool) -> None:
    layer, fresh = (ModeNorm(3, 4, affine=affine) for _ in range(2))
    keys = ["running_mean", "running_var", "num_batches_tracked", "gate.weight", "gate.bias"]
    assert list(layer.state_dict()) == ["weight", "bias"] * affine + keys
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for _ in range(3):
        layer(torch.randn(20, 3, 2) * 3 + 1)
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(10, 3, 2)
    assert torch.equal(fresh.eval()(x), layer.eval()(x))
    fresh.reset_parameters()
    assert (fresh.running_mean == 0).all()
    assert (fresh.running_var == 1).all()
    assert fresh.num_batches_tracked == 0
    assert not torch.equal(fresh(x), layer(x))


def test_repr() -> None:
    text = repr(ModeNorm(3, 4, momentum=None, affine=False)).splitlines()[1]
    assert text.strip() == "3, n_components=4, eps=1e-05, momentum=None, affine=False"
