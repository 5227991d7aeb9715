"""Activation checkpointing runs a forward pass a second time, inside the backward pass."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm

LAYERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (MixtureNorm, {"n_components": 4}),
    (MixtureNorm, {"granularity": "channel"}),
    (ModeNorm, {}),
    (ModeNorm, {"momentum": None}),
    (ModeGroupNorm, {}),
]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
def test_checkpointing_changes_nothing(kind: type[nn.Module], arguments: dict[str, Any], use_reentrant: bool) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 5, 1), kind(5, **arguments), nn.ReLU())
    checkpointed = copy.deepcopy(plain)
    for _ in range(3):
        x = torch.randn(6, 3, 4, 4, requires_grad=True)
        gradients = []
        for model, forward in (
            (plain, plain),
            (checkpointed, lambda x: checkpoint(checkpointed, x, use_reentrant=use_reentrant)),
        ):
            loss = forward(x).square().sum()
            gradients.append(torch.autograd.grad(loss, (x, *model.parameters())) if not use_reentrant else None)
            if use_reentrant:
                model.zero_grad()
                x.grad = None
                loss.backward()
                gradients[-1] = [x.grad.clone(), *(parameter.grad.clone() for parameter in model.parameters())]
        for ours, expected in zip(gradients[1], gradients[0], strict=True):
            torch.testing.assert_close(ours, expected)
    buffers = dict(plain.named_buffers())
    assert buffers or kind is ModeGroupNorm
    for name, value in checkpointed.named_buffers():
        torch.testing.assert_close(value, buffers[name], msg=name)


def test_each_new_forward_pass_counts() -> None:
    layer = MixtureNorm(3)
    for count in (1, 2, 3):
        x = torch.randn(8, 3, requires_grad=True)
        layer(x).sum().backward()
        assert layer.num_batches_tracked == layer.queue.pushes == count
