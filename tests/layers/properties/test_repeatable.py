"""What a layer computes depends on its history alone, and leaves torch's random numbers to others."""

import pytest
import torch
from helpers.layers import Case, refit, some_input

from mn_lightning import MixtureNorm


def test_the_global_generator_is_left_alone(case: Case) -> None:
    layer = case.make()
    x = some_input()
    before = torch.get_rng_state()
    layer(x.requires_grad_()).sum().backward()
    layer.eval()(x)
    refit(layer)
    assert torch.equal(torch.get_rng_state(), before)


def test_same_history_gives_the_same_output(case: Case) -> None:
    layer, other = case.in_use(), case.make()
    other.load_state_dict(layer.state_dict())
    for _ in range(2):
        x = some_input((30, 3, 4, 2))
        y = layer(x)
        torch.rand(5)
        assert torch.equal(y, other(x))


def test_another_step_may_come_to_another_mixture(case: Case) -> None:
    """As far as the random start goes."""
    if case.kind is not MixtureNorm or case.arguments.get("n_components") == 1:
        pytest.skip("nothing is random")
    layer = case.make()
    x = torch.randn(30, 3)
    outputs = [layer(x) for _ in range(10)]
    assert any(not torch.equal(outputs[0], y) for y in outputs[1:])
