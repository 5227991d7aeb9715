"""What a layer computes depends on its history alone, and leaves torch's random numbers to others."""

import torch
from helpers.layers import Case, refit, some_input


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
