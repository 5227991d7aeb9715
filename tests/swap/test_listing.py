import pytest
import torch
import torchvision
from torch import Tensor, nn

import mn_lightning as mn
from mn_lightning.models import CIFARConvNet
from mn_lightning.swap import registry


def test_the_layers_of_table_1() -> None:
    found = mn.norm_layers(CIFARConvNet(), torch.zeros(2, 3, 32, 32))
    assert [tuple(layer) for layer in found] == [
        ("conv1.norm", "BatchNorm2d", 64, (64, 32, 32)),
        ("conv2.norm", "BatchNorm2d", 128, (128, 16, 16)),
        ("conv3.norm", "BatchNorm2d", 128, (128, 8, 8)),
        ("conv4.norm", "BatchNorm2d", 256, (256, 4, 4)),
    ]


def test_names_can_be_written_under_layers() -> None:
    model = torchvision.models.resnet18()
    for layer in mn.norm_layers(model):
        assert [line.name for line in mn.swap_norms(model, layer.name, "mode")] == [layer.name]


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[2].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    mn.norm_layers(model, torch.randn(2, 3, 4, 4, generator=torch.Generator()))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert [module.training for module in model] == [True, True, False]
    assert not model[1]._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_model_that_cannot_run_on_the_input_is_left_as_it_was() -> None:
    model = CIFARConvNet()
    with pytest.raises(ValueError, match="CIFARConvNet got input"):
        mn.norm_layers(model, torch.zeros(2, 3, 7, 7))
    assert model.training
    assert not model.conv1.norm._forward_pre_hooks


@pytest.mark.parametrize(
    "example", [(torch.zeros(2, 3, 7), torch.zeros(2, 3)), {"x": torch.zeros(2, 3, 7), "scale": torch.zeros(2, 3)}]
)
def test_models_of_several_inputs(example: object) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.first(x) * self.second(scale).unsqueeze(-1)

    assert [layer.input_shape for layer in mn.norm_layers(Two(), example)] == [(3, 7), (3,)]


def test_layers_that_do_not_run_have_no_shape() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(3), nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    shapes = {layer.name: layer.input_shape for layer in mn.norm_layers(Half(), torch.zeros(2, 3, 7))}
    assert shapes == {"used": (3, 7), "unused": None}


@pytest.mark.parametrize("norm", registry._NORMS)
def test_swapped_layers_are_listed(norm: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(6), nn.GroupNorm(2, 6))
    mn.swap_norms(model, "all", norm)
    (layer,) = mn.norm_layers(model)  # the user's own GroupNorm is none that could be swapped
    assert (layer.name, layer.num_features) == ("0", 6)


def test_norms_of_ones_own_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))
    mn.register_norm("none", lambda batch_norm: nn.Identity())
    model = nn.Sequential(nn.BatchNorm2d(6))
    mn.swap_norms(model, "all", "none")
    assert mn.norm_layers(model) == [("0", "Identity", None, None)]
