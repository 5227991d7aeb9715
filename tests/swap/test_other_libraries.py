"""Networks of other libraries: what stands for BatchNorm there is swapped, and evaluates as before."""

import copy
import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mn_lightning as mn
from mn_lightning import MixtureNorm, ModeNorm
from mn_lightning.swap import norm_candidates
from mn_lightning.swap.sources import read_source

timm = pytest.importorskip("timm")

# One of each way to build a network around norms.
SMALL_NETWORKS = {
    name: functools.partial(timm.create_model, name, num_classes=5)
    for name in (
        "efficientnet_b0",
        "regnety_002",
        "resnet10t",
        "densenet121",
        "mobilenetv3_small_050",
        "mixnet_s",
        "vovnet39a",
    )
}
FAMILIES = {(re.match("[a-z]*", name).group(), "_bn" in name): name for name in reversed(timm.list_models())}
"""The first of each by the letters that its name begins with; a VGG has norms if its name says so."""


def with_other_statistics(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for layer in norm_candidates(model).values():
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.8, 1.2)
            layer.weight.uniform_(0.8, 1.2)
            layer.bias.normal_(0, 0.1)
    return model.eval()


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@functools.lru_cache(1)  # pytest asks for one network with each norm, then for the next one
def built(build: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    """A network to copy, images, and what it makes of them."""
    torch.manual_seed(0)
    model, images = with_other_statistics(build()), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        return model, images, model(images)


@pytest.mark.parametrize("norm", ["mixture", "mode"])
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_networks_of_timm_evaluate_as_before(name: str, norm: str) -> None:
    network, images, expected = built(SMALL_NETWORKS[name])
    model = copy.deepcopy(network)
    keys = {key for key in model.state_dict() if not key.endswith(("running_mean", "running_var"))}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = mn.swap_norms(model, "all", norm)
        close(model(images), expected)
        assert len(report) == len(norm_candidates(model)) > 10
    assert keys <= model.state_dict().keys()
    assert not [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def check_on_meta(name: str) -> None:
    """Which layers are recognised, and the names of all parameters."""
    with torch.device("meta"):
        model = timm.create_model(name)
    if not norm_candidates(model):
        pytest.skip("no BatchNorm")
    weights = {key for key in model.state_dict() if key.endswith((".weight", ".bias"))}
    mn.swap_norms(model, "all", "mode")
    assert not [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    now = {key for key in model.state_dict() if key.endswith((".weight", ".bias"))}
    assert weights <= now
    assert all(".gate." in key for key in now - weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES.values()))
def test_every_family_of_timm_is_swapped(name: str) -> None:
    check_on_meta(name)


@pytest.mark.nightly
@pytest.mark.parametrize("name", timm.list_models())
def test_every_model_of_timm_is_swapped(name: str) -> None:
    check_on_meta(name)


def test_the_activation_stays_behind_the_norm() -> None:
    layer = timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU, drop_layer=lambda: nn.Dropout(0.5))
    model = nn.Sequential(copy.deepcopy(layer))
    mn.swap_norms(model, norm="mode", n_components=1)
    x = torch.randn(6, 4, 5, 5)
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(model[0].act, nn.SiLU)
    assert model.state_dict().keys() >= {"0.weight", "0.bias"}
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), layer.eval()(x), rtol=1e-4, atol=1e-5)


def test_the_activation_goes_inside_if_it_is_fused() -> None:
    model = nn.Sequential(timm.layers.BatchNormAct2d(4), timm.layers.BatchNormAct2d(4, apply_act=False), nn.ELU())
    report = mn.swap_norms(model, norm="mixture", fuse_activation=True)
    assert report.not_fused == {}
    assert isinstance(model[0].activation, nn.ReLU)
    assert isinstance(model[0].act, nn.Identity)
    assert isinstance(model[1].activation, nn.ELU)
    assert isinstance(model[2], nn.Identity)


def test_what_follows_is_done_once_after_two_swaps() -> None:
    layer = timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU).eval()
    model, x = nn.Sequential(copy.deepcopy(layer)), torch.randn(6, 4, 5, 5)
    for norm in ("group", "mode", "mixture"):
        mn.swap_norms(model, norm=norm, again=True)
    torch.testing.assert_close(model(x), layer(x), rtol=1e-4, atol=1e-5)  # its statistics were 0 and 1
    assert len(model[0]._forward_hooks) == 1


@pytest.mark.parametrize("name", ["regnety_002", "resnet10t"])
def test_batch_refuses_nothing_and_changes_nothing(name: str) -> None:
    model = timm.create_model(name)
    before = dict(model.named_modules())
    assert len(mn.swap_norms(model, norm="batch")) > 10
    assert dict(model.named_modules()) == before


FROZEN = {
    "torchvision": lambda: torchvision.models.resnet18(norm_layer=torchvision.ops.FrozenBatchNorm2d),
    "timm": lambda: timm.layers.freeze_batch_norm_2d(timm.create_model("resnet10t")),
    "timm, with activation": lambda: timm.layers.freeze_batch_norm_2d(timm.create_model("regnety_002")),
}


@pytest.mark.parametrize("norm", ["mixture", "mode"])
@pytest.mark.parametrize("name", FROZEN)
def test_frozen_batch_norm_evaluates_as_before(name: str, norm: str) -> None:
    network, images, expected = built(FROZEN[name])
    model = copy.deepcopy(network)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mn.swap_norms(model, "all", norm)
        close(model(images), expected)
    layers = [layer for layer in model.modules() if isinstance(layer, (MixtureNorm, ModeNorm))]
    assert len(layers) > 10
    assert not any(layer.weight.requires_grad or layer.bias.requires_grad for layer in layers)


class Twice(nn.BatchNorm2d):
    """Holds an activation that it does not use as the last thing."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x)) * 2


class Rewritten(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        return super().forward(input)


def test_what_a_subclass_computes_decides() -> None:
    with pytest.raises(ValueError, match="0 is a Twice, which computes more than BatchNorm"):
        mn.swap_norms(nn.Sequential(Twice(4)), norm="mode")
    layer = Rewritten(4).train()
    state, random_state = {key: value.clone() for key, value in layer.state_dict().items()}, torch.get_rng_state()
    mn.swap_norms(model := nn.Sequential(layer), norm="mode")
    assert isinstance(model[0], ModeNorm)
    assert model[0].training
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in state.items())  # it was tried on a copy
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_torchs_own_layers_are_taken_as_they_are(layer: Any, options: dict[str, bool]) -> None:
    own = layer(3, **options)
    assert read_source("0", own) == (own, ())


def test_safetensors_keep_the_record(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    build = lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))  # noqa: E731
    model = build()
    mn.swap_norms(model, norm="mixture", n_components=4, scale="unit")
    safetensors.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    state_dict = safetensors.load_file(tmp_path / "weights.safetensors")
    again = build()
    mn.swap.swap_as_saved(again, state_dict)
    again.load_state_dict(state_dict)
    assert str(again) == str(model)
