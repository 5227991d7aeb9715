"""Nothing that happens inside is seen outside."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from mn_lightning.utils.restore import buffers_untouched, rng_untouched, seed_all, untouched

CPU = torch.device("cpu")


@pytest.mark.parametrize("error", [False, True])
def test_random_states(error: bool) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    try:
        with rng_untouched(CPU):
            seed_all(0, 5)
            inside = draw()
            if error:
                raise KeyError
    except KeyError:
        pass
    assert draw() == expected
    seed_all(0, 5)
    assert draw() == inside != expected
    seed_all(0, 6)
    assert draw() != inside


def test_modes_and_buffers() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout().eval(), nn.Sequential(nn.BatchNorm1d(3)).eval())
    model[2][0].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with untouched(model, CPU):
        model.train()
        model(torch.randn(5, 3))
        assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    assert [module.training for module in model.modules()] == [True, True, False, False, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_buffers_that_are_replaced() -> None:
    model = nn.Module()
    buffer = torch.arange(3.0)
    model.register_buffer("grows", buffer, persistent=False)
    model.register_buffer("nothing", None)
    with buffers_untouched(model):
        model.grows += 1
        model.grows = torch.zeros(7)
    assert model.grows is buffer
    assert model.grows.tolist() == [0, 1, 2]
