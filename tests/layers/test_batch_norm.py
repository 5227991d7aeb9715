"""Layers made from a BatchNorm: its settings, statistics, dtype, and what it computes."""

from typing import Any

import pytest
import torch
from torch import nn

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm

BATCH_NORMS = {
    (6, 3): nn.BatchNorm1d,
    (6, 3, 5): nn.BatchNorm1d,
    (6, 3, 4, 2): nn.BatchNorm2d,
    (6, 3, 2, 2, 3): nn.BatchNorm3d,
}


def trained_batch_norm(shape: tuple[int, ...], **options: Any) -> nn.Module:
    batch_norm = BATCH_NORMS[shape](shape[1], **options)
    for _ in range(3):
        batch_norm(torch.randn(shape) * 3 + 2)
    if batch_norm.affine:
        nn.init.uniform_(batch_norm.weight, 0.5, 2)
        nn.init.normal_(batch_norm.bias)
    return batch_norm


@pytest.mark.parametrize("layer_class", [MixtureNorm, ModeNorm])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1, "momentum": None}, {"momentum": 0.4}])
@pytest.mark.parametrize("shape", BATCH_NORMS)
def test_from_batch_norm_evaluates_as_it_did(
    shape: tuple[int, ...], options: dict[str, Any], layer_class: type[Any]
) -> None:
    batch_norm = trained_batch_norm(shape, **options).eval()
    granularities = [{}, {"granularity": "channel"}] if layer_class is MixtureNorm else [{}, {"n_components": 5}]
    for extra in granularities:
        layer = layer_class.from_batch_norm(batch_norm, **extra).eval()
        assert layer.eps == batch_norm.eps
        assert (layer.weight is None) == (not batch_norm.affine)
        if batch_norm.affine:  # the swap hands these over as objects, so that optimizers keep them
            layer.weight, layer.bias = batch_norm.weight, batch_norm.bias
        x = torch.randn(shape) * 2 - 1
        torch.testing.assert_close(layer(x).detach(), batch_norm(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer_class", [MixtureNorm, ModeNorm, ModeGroupNorm])
def test_from_batch_norm_without_running_statistics(layer_class: type[Any]) -> None:
    layer = layer_class.from_batch_norm(nn.BatchNorm2d(3, eps=0.2, track_running_stats=False))
    fresh = layer_class(3, eps=0.2)
    assert layer.eps == 0.2
    for name, value in fresh.named_buffers():
        assert torch.equal(value, dict(layer.named_buffers())[name])
    assert layer(torch.randn(4, 3, 2, 2)).isfinite().all()
    assert layer.eval()(torch.randn(4, 3, 2, 2)).isfinite().all()


@pytest.mark.parametrize("layer_class", [MixtureNorm, ModeNorm, ModeGroupNorm])
def test_from_batch_norm_keeps_the_dtype_unless_told(layer_class: type[Any]) -> None:
    batch_norm = nn.BatchNorm2d(3, dtype=torch.float64)
    for layer, dtype in (
        (layer_class.from_batch_norm(batch_norm), torch.float64),
        (layer_class.from_batch_norm(batch_norm, dtype=torch.float32, device="cpu"), torch.float32),
    ):
        assert all(t.dtype == dtype for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point())


@pytest.mark.parametrize("layer_class", [MixtureNorm, ModeNorm, ModeGroupNorm])
def test_from_batch_norm_takes_other_arguments(layer_class: type[Any]) -> None:
    none = None if layer_class is MixtureNorm else False  # it has two kinds of affine maps, and none
    layer = layer_class.from_batch_norm(nn.BatchNorm2d(3, eps=0.2), n_components=5, eps=0.3, affine=none)
    assert layer.n_components == 5
    assert layer.eps == 0.3
    assert layer.weight is None
    assert layer.bias is None
