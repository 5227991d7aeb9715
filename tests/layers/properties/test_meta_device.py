"""Layers that are made and called without memory, and get it later."""

import torch
from helpers.layers import Case, refit, some_input

WITH_TORCH = True


def test_forward_on_the_meta_device(case: Case) -> None:
    layer = case.make(device="meta")
    x = torch.empty(8, 3, 4, 2, device="meta")
    for training in (True, False):
        y = layer.train(training)(x)
        assert y.is_meta
        assert y.shape == x.shape


def test_built_on_the_meta_device_and_initialized_later(case: Case) -> None:
    """As models that are too large to be initialized twice are."""
    with torch.device("meta"):
        layer = case.make()
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif isinstance(module, torch.nn.PReLU):  # which has no such method in torch 2.6
            torch.nn.init.constant_(module.weight, 0.25)
    fresh = case.make()
    for (name, value), (_, expected) in zip(layer.named_buffers(), fresh.named_buffers(), strict=True):
        assert value.shape == expected.shape
        assert name == "queue.rows" or torch.equal(value, expected)
    assert layer(some_input((8, 3))).isfinite().all()
    refit(layer)
    assert layer.eval()(some_input((8, 3))).isfinite().all()
