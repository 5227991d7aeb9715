"""Weights of BatchNorm in a layer that has taken its place."""

import pytest
import torch
from torch import Tensor, nn

import mn_lightning as mn
from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm

LAYERS = {
    "mixture": lambda: MixtureNorm(5),
    "mixture per channel": lambda: MixtureNorm(5, granularity="channel"),
    "mode": lambda: ModeNorm(5, n_components=3),
    "mode_group": lambda: ModeGroupNorm(5),
}


def batch_norm() -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(5)
    for _ in range(3):
        layer(torch.randn(20, 5) * 3 + 1)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer.eval()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("name", list(LAYERS))
def test_batch_norms_weights_can_be_loaded(name: str, swapped: bool, strict: bool) -> None:
    source = batch_norm()
    model = nn.Sequential(LAYERS[name]())
    if swapped:
        model = nn.Sequential(nn.BatchNorm1d(5))
        mn.swap_norms(model, norm=name.split()[0], **({"granularity": "channel"} if "channel" in name else {}))
    gate = {key: value.clone() for key, value in model.state_dict().items() if "gate" in key}
    assert model.load_state_dict(nn.Sequential(source).state_dict(), strict) == ([], [])
    assert torch.equal(model[0].weight, source.weight)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in gate.items())
    x = torch.randn(7, 5)
    if name != "mode_group":
        torch.testing.assert_close(model.eval()(x), source(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_layers_without_statistics_leave_them_out(norm: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    mn.swap_norms(model, norm=norm)
    weights = nn.Sequential(nn.BatchNorm1d(4))
    nn.init.normal_(weights[0].weight)
    model.load_state_dict(weights.state_dict())
    assert torch.equal(model[0].weight, weights[0].weight)


def test_a_mixture_that_was_trained_gives_way() -> None:
    layer, source = MixtureNorm(5), batch_norm()
    layer(torch.randn(50, 5))
    layer.refit()
    layer(torch.randn(50, 5))
    layer.load_state_dict(source.state_dict())
    assert layer.mixture_weights.tolist() == [1, 0, 0]
    assert not layer.stale
    x = torch.randn(7, 5)
    torch.testing.assert_close(layer.eval()(x), source(x))


@pytest.mark.parametrize("name", list(LAYERS))
def test_batch_norm_of_another_width_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch|Unexpected|Missing"):
        LAYERS[name]().load_state_dict(nn.BatchNorm1d(6).state_dict())


def test_two_modes_that_were_saved_are_no_batch_norm() -> None:
    with pytest.raises(RuntimeError, match="Missing"):
        MixtureNorm(5).load_state_dict(ModeNorm(5).state_dict())


def test_the_rest_of_a_network_is_loaded_with_them() -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5))

    source, model = build(), build()
    source(torch.randn(30, 4))
    mn.swap_norms(model, {"1": {"n_components": 2}})
    mn.swap_norms(model, "3", "mode")
    model.load_state_dict(source.state_dict())
    x: Tensor = torch.randn(6, 4)
    torch.testing.assert_close(model.eval()(x), source.eval()(x))
