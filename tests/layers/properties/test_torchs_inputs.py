"""The inputs and settings of torch's own tests of BatchNorm1d, 2d and 3d."""

import pytest
import torch
from helpers.layers import Case
from torch import Tensor, nn

from mn_lightning import ModeGroupNorm

common_modules = pytest.importorskip("torch.testing._internal.common_modules", exc_type=ImportError)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def samples(kind: type[nn.Module]) -> list[tuple[nn.Module, Tensor]]:
    """Layers of torch's and an input for each."""
    (info,) = (info for info in common_modules.module_db if info.module_cls is kind)
    inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    return [
        (kind(*sample.constructor_input.args, **sample.constructor_input.kwargs), sample.forward_input.args[0])
        for sample in inputs
    ]


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_forward_and_backward(case: Case, kind: type[nn.Module]) -> None:
    """Where BatchNorm takes an input, all layers do."""
    for batch_norm, given in samples(kind):
        layer = case.make(batch_norm.num_features)
        for training in (True, False):
            x = given.clone().requires_grad_()
            layer.train(training)
            y = layer(x)
            assert (y.shape, y.dtype) == (batch_norm(x).shape, x.dtype)
            y.square().sum().backward()
            assert x.grad.isfinite().all()
            for parameter in layer.parameters():
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_in_place_of_the_batch_norm(case: Case, kind: type[nn.Module]) -> None:
    """With its settings and statistics the layer evaluates as it does, unless it has no statistics."""
    for batch_norm, x in samples(kind):
        if len(x):
            batch_norm(x + 1)
        layer = case.kind.from_batch_norm(batch_norm.eval(), **case.arguments_made()).eval()
        assert layer.eps == batch_norm.eps
        y = layer(x)
        assert y.shape == x.shape
        unlike = {"affine", "activation"} & case.arguments.keys()
        if case.kind is not ModeGroupNorm and batch_norm.track_running_stats and not unlike:
            torch.testing.assert_close(y, batch_norm(x), rtol=1e-5, atol=1e-5)
