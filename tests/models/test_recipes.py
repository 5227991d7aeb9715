"""The papers' recipes in Python are those of the shipped configurations."""

from typing import Any

import pytest
import torch
import yaml
from torch import nn, optim

from mn_lightning import configs
from mn_lightning.models import ImageClassifier, recipes


@pytest.mark.parametrize(
    ("name", "configuration"), [("kalayeh_shah", "conv_net_cifar10"), ("deecke", "network_in_network_cifar10")]
)
def test_as_configured(name: str, configuration: str) -> None:
    given: dict[str, Any] = yaml.safe_load(configs.config_path(configuration).read_text())["model"]["init_args"]
    model = ImageClassifier(
        nn.Linear(2, 10), optimizer=getattr(recipes, name), lr_scheduler=getattr(recipes, f"{name}_schedule")
    )
    made: Any = model.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    for found, part in ((optimizer, given["optimizer"]), (scheduler, given["lr_scheduler"])):
        expected = getattr(optim, part["class_path"].split(".")[-1], None) or getattr(
            torch.optim.lr_scheduler, part["class_path"].split(".")[-1]
        )
        assert type(found) is expected
    assert {key: optimizer.defaults[key] for key in given["optimizer"]["init_args"]} == given["optimizer"]["init_args"]
    for key, value in given["lr_scheduler"]["init_args"].items():
        assert (sorted(getattr(scheduler, key)) if key == "milestones" else getattr(scheduler, key)) == value
