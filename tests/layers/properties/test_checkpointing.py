"""Activation checkpointing runs a forward pass a second time, inside the backward pass: that changes nothing."""

import copy

import pytest
import torch
from helpers.layers import Case, assert_same, some_input, state
from torch import nn
from torch.utils.checkpoint import checkpoint


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_nothing(case: Case, use_reentrant: bool) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 5, 1), case.make(5), nn.ReLU())
    checkpointed = copy.deepcopy(plain)
    for _ in range(3):
        x = some_input((6, 3, 4, 4)).requires_grad_()
        gradients = []
        for model, forward in (
            (plain, plain),
            (checkpointed, lambda x: checkpoint(checkpointed, x, use_reentrant=use_reentrant)),
        ):
            model.zero_grad()
            x.grad = None
            forward(x).square().sum().backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()} | {"input": x.grad.clone()})
        assert_same(gradients[1], gradients[0], 1e-5)
    assert_same(state(checkpointed), state(plain), 1e-5)


def test_each_new_forward_pass_counts(case: Case) -> None:
    layer = case.make()
    for count in (1, 2, 3):
        x = torch.randn(8, 3, 2, requires_grad=True)
        layer(x).sum().backward()
        assert getattr(layer, "num_batches_tracked", count) == count
        if hasattr(layer, "queue"):
            assert layer.queue.pushes == count
