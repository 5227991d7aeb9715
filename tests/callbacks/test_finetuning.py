"""Lightning's finetuning callbacks do with swapped layers what they do with BatchNorm."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import digits, trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.layers import MixtureNorm, ModeNorm

# What BatchNorm's weight and bias are, and what is trained with them.
PARAMETERS = {
    "batch": {"2.weight", "2.bias"},
    "mixture": {"2.weight", "2.bias"},
    "mode": {"2.weight", "2.bias", "2.gate.weight", "2.gate.bias"},
    "mode_group": {"2.weight", "2.bias", "2.gate.weight", "2.gate.bias"},
    "group": {"2.weight", "2.bias"},
}


class Frozen(BaseFinetuning):
    def __init__(self, train_bn: bool, static: bool = False) -> None:
        super().__init__()
        self.train_bn = train_bn
        self.static = static

    def freeze_before_training(self, pl_module: Any) -> None:
        (BaseFinetuning if self.static else self).freeze(pl_module.backbone, train_bn=self.train_bn)

    def finetune_function(self, *args: Any) -> None:
        pass


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.PReLU())
        self.head = nn.Linear(16, 10)
        with torch.no_grad():
            self.backbone(torch.randn(64, 1, 8, 8) * 2 + 1)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


def fitted(folder: Path, norm: str, freeze: Callback, swap_first: bool, **arguments: Any) -> tuple[Model, Tensor]:
    """The model, and how much each output of the backbone has changed."""
    model = Model()
    x = torch.randn(20, 1, 8, 8)
    before = model.eval().backbone(x).detach()
    swap = [NormSwapCallback("all", norm), GMMRefitCallback(), QueueResetCallback()]
    callbacks = [*swap, freeze] if swap_first else [freeze, *swap]
    trainer(folder, callbacks, **{"max_epochs": 1, **arguments}).fit(model.train(), digits())
    return model, (model.eval().backbone(x) - before).detach().abs()


def trainable(model: Model) -> set[str]:
    return {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("swap_first", [True, False])
@pytest.mark.parametrize("norm", list(PARAMETERS))
def test_frozen_means_frozen(norm: str, swap_first: bool, tmp_path: Path) -> None:
    model, change = fitted(tmp_path, norm, Frozen(train_bn=False), swap_first)
    assert trainable(model) == set()
    if norm not in ("group", "mode_group"):  # these evaluate to something else as soon as they are swapped
        assert change.max() < 1e-5


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("swap_first", [True, False])
@pytest.mark.parametrize("norm", list(PARAMETERS))
def test_norms_can_be_trained_in_a_frozen_backbone(norm: str, swap_first: bool, static: bool, tmp_path: Path) -> None:
    model, change = fitted(tmp_path, norm, Frozen(train_bn=True, static=static), swap_first)
    assert trainable(model) == PARAMETERS[norm]
    assert change.max() > 0.01


@pytest.mark.parametrize("swap_first", [True, False])
@pytest.mark.parametrize("norm", ["mixture", "mode"])
def test_a_backbone_that_is_unfrozen_trains_again(norm: str, swap_first: bool, tmp_path: Path) -> None:
    freeze = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_lr=0.1)
    model, change = fitted(tmp_path, norm, freeze, swap_first, max_epochs=3)
    assert trainable(model) == {name for name, _ in model.backbone.named_parameters()}
    layer = model.backbone[2]
    assert isinstance(layer, (MixtureNorm, ModeNorm))
    assert layer.track_running_stats
    assert change.max() > 0.1


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    freeze = Frozen(train_bn=True)
    model, _ = fitted(tmp_path, "mode", freeze, swap_first=True)
    assert not {"freeze_before_training", "finetune_function"} & vars(freeze).keys()
    assert isinstance(model.backbone[2], ModeNorm)
