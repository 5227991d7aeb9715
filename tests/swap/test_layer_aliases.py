"""Names that a network gives to norm layers inside it."""

import copy
import pickle
from typing import ClassVar

import pytest
import torch
from torch import nn

from mn_lightning import MixtureNorm, swap_norms
from mn_lightning.swap import layer_aliases


class Named(nn.Module):
    layer_aliases: ClassVar[dict[str, list[str]]] = {
        "early": ["stem.1", "stem.3"],
        "late": ["top.1"],
        "block/0": ["stem.3", "top.1"],
    }

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.top = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.top(self.stem(images))


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Named()
        self.second = Named()


def swapped(model: nn.Module, *layers: str) -> list[str]:
    return [line.name for line in swap_norms(model, layers)]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["early"], ["stem.1", "stem.3"]),
        (["late"], ["top.1"]),
        (["late", "early"], ["stem.1", "stem.3", "top.1"]),
        (["block/0"], ["stem.3", "top.1"]),
        (["block/?"], ["stem.3", "top.1"]),
        (["*a*e"], ["top.1"]),
        (["top"], ["top.1"]),
        (["stem.*"], ["stem.1", "stem.3"]),
        (["first"], ["stem.1"]),
        (["last"], ["top.1"]),
    ],
)
def test_an_alias_stands_for_its_layers(layers: list[str], expected: list[str]) -> None:
    assert swapped(Named(), *layers) == expected


def test_networks_inside_a_model() -> None:
    assert swapped(Owner(), "late") == ["first.top.1", "second.top.1"]
    assert swapped(Owner(), "second.late") == ["second.top.1"]
    assert swapped(nn.ModuleDict({"model": Owner()}), "first.early") == ["model.first.stem.1", "model.first.stem.3"]


def test_whole_names_go_before_aliases_inside() -> None:
    model = nn.ModuleDict({"late": nn.Sequential(nn.BatchNorm2d(2)), "network": Named()})
    assert swapped(model, "late") == ["late.0"]
    assert swapped(model, "network.late") == ["network.top.1"]


def test_an_alias_takes_arguments_and_the_last_match_wins() -> None:
    model = Named()
    swap_norms(model, {"all": {"n_components": 2}, "late": {"n_components": 5}})
    assert [layer.n_components for layer in model.modules() if isinstance(layer, MixtureNorm)] == [2, 2, 5]


def test_swapped_layers_keep_their_aliases() -> None:
    model = Named()
    assert swapped(model, "late") == ["top.1"]
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        report = swap_norms(again, "late")
        assert (report.layers, report.unchanged) == ((), ("top.1",))


def test_a_layer_that_has_another_name_first() -> None:
    model = nn.ModuleDict()
    network = Named()
    model["shared"] = network.top[1]
    model["network"] = network
    assert swapped(model, "late") == ["shared"]
    assert network.top[1] is model["shared"]
    assert isinstance(network.top[1], MixtureNorm)


def test_layers_that_a_user_took_out_are_passed_over() -> None:
    model = Named()
    model.stem[3] = nn.Identity()
    assert swapped(model, "early") == ["stem.1"]
    model.top = nn.Identity()
    assert layer_aliases(model) == {"early": ["stem.1"]}
    with pytest.raises(ValueError, match="'late' matches no norm layer"):
        swap_norms(model, "late")


def test_a_compiled_network() -> None:
    model = nn.ModuleDict({"network": torch.compile(Named())})
    assert swapped(model, "late") == ["network._orig_mod.top.1"]


def test_errors_list_the_aliases() -> None:
    with pytest.raises(ValueError, match="'erly' matches no norm layer; the nearest is 'early'") as error:
        swap_norms(Named(), "erly")
    text = str(error.value)
    assert "norm layers are stem.1, stem.3, top.1, with the aliases early, late, block/0 (first, last" in text
    assert "\n" not in text


def test_models_without_aliases_do_not_speak_of_them() -> None:
    with pytest.raises(ValueError, match="matches no norm layer") as error:
        swap_norms(nn.Sequential(nn.BatchNorm2d(2)), "nope")
    assert "alias" not in str(error.value)
