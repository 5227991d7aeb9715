"""ModeGroupNorm against GroupNorm and the loops."""

from typing import Any

import pytest
import torch
from helpers import oracle
from torch import Tensor, nn

from mn_lightning.layers import ModeGroupNorm

SHAPES = [(6, 4), (6, 4, 5), (6, 4, 3, 2), (6, 4, 2, 2, 3), (1, 4, 3, 2)]


def close(value: Tensor, reference: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(value, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_constant_gates_are_group_norm(shape: tuple[int, ...], modes: int) -> None:
    group_norm, layer = nn.GroupNorm(1, 4, eps=1e-3), ModeGroupNorm(4, modes, eps=1e-3)
    for parameter in group_norm.parameters():
        nn.init.normal_(parameter)
    layer.weight, layer.bias = group_norm.weight, group_norm.bias
    if modes > 1:
        nn.init.zeros_(layer.gate.weight)
        nn.init.normal_(layer.gate.bias)
    x = torch.randn(shape) * 3 + 2
    for training in (True, False):
        close(layer.train(training)(x).detach(), group_norm(x).detach(), 1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_against_the_loops(affine: bool) -> None:
    layer = ModeGroupNorm(3, 2, eps=1e-3, affine=affine, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 3, 4, dtype=torch.float64)
    expected = oracle.mode_group_norm(x, layer.gate.weight[:, 0], layer.gate.bias, layer.weight, layer.bias, eps=1e-3)
    for training in (True, False):
        close(layer.train(training)(x).detach(), expected.detach(), 1e-9)


def test_a_sample_does_not_depend_on_the_others() -> None:
    layer = ModeGroupNorm(3, 2)
    nn.init.normal_(layer.gate.weight)
    x = torch.randn(5, 3, 4, 4)
    close(torch.cat([layer(one) for one in x.split(1)]).detach(), layer(x).detach(), 1e-6)


def test_gates_start_nearly_uniform() -> None:
    torch.manual_seed(1)
    layer = ModeGroupNorm(3, 2000)
    noise = layer.gate.weight - 1 / 2000
    assert noise.mean().abs() < 0.001
    assert 0.0095 < noise.std() < 0.0105
    assert (layer.gate.bias == 0).all()


def test_modes_that_no_channel_uses_stay_finite() -> None:
    layer = ModeGroupNorm(4, 3)
    layer.gate.bias.data.copy_(torch.tensor([0.0, -1000.0, -1000.0]))
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(50, 8, 4, 3, 3)
    literal = oracle.mode_group_norm(x[0].double(), layer.gate.weight[:, 0].double(), layer.gate.bias.double())
    assert literal.isnan().all()  # dividing by C_k as published is 0 / 0
    target = torch.randn(8, 4, 3, 3)
    for batch in x:
        optimizer.zero_grad()
        y = layer(batch)
        assert y.isfinite().all()
        (y - target).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
        optimizer.step()
        assert all(p.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("arguments", [{"num_features": 0}, {"n_components": 0}, {"n_components": -1}])
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    (given,) = arguments.items()
    with pytest.raises(ValueError, match=f"it takes {given[0]} >= 1") as error:
        ModeGroupNorm(**({"num_features": 3} | arguments))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"ModeGroupNorm got {given[0]}={given[1]!r}")


@pytest.mark.parametrize("arguments", [{"eps": -1}, {"eps": float("nan")}, {"affine": "x"}])
def test_settings_that_mean_nothing(arguments: dict[str, Any]) -> None:
    (given,) = arguments.items()
    with pytest.raises(ValueError, match=rf"^ModeGroupNorm got {given[0]}=.*; it takes .+") as error:
        ModeGroupNorm(3, **arguments)
    assert "\n" not in str(error.value)


def test_one_value_per_sample() -> None:
    with pytest.raises(ValueError, match="more than one value per sample") as error:
        ModeGroupNorm(1)(torch.randn(4, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("affine", [True, False])
def test_state_dict_round_trip(affine: bool) -> None:
    layer, fresh = (ModeGroupNorm(3, 4, affine=affine) for _ in range(2))
    assert list(layer.state_dict()) == ["weight", "bias"] * affine + ["gate.weight", "gate.bias"]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(10, 3, 2)
    assert torch.equal(fresh(x), layer(x))


def test_from_batch_norm() -> None:
    layer = ModeGroupNorm.from_batch_norm(nn.BatchNorm2d(3, eps=0.1), n_components=5)
    assert (layer.num_features, layer.n_components, layer.eps, layer.affine) == (3, 5, 0.1, True)
    assert ModeGroupNorm.from_batch_norm(nn.BatchNorm1d(3, affine=False)).weight is None


def test_repr() -> None:
    text = repr(ModeGroupNorm(3, 4, affine=False)).splitlines()[1]
    assert text.strip() == "3, n_components=4, eps=1e-05, affine=False"
