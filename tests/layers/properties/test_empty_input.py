"""A batch without samples: an error in training as BatchNorm's, none in evaluation."""

import pytest
import torch
from helpers.layers import Case, assert_same, state

from mn_lightning import ModeGroupNorm


# Moments over no pixels are NaN, which torch warns of.
@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5), (0, 3, 4, 2), (0, 3, 2, 2, 2), (2, 3, 0)])
def test_without_samples_or_pixels(case: Case, shape: tuple[int, ...]) -> None:
    layer = case.in_use()
    before = state(layer)
    if case.kind is not ModeGroupNorm:  # which takes each sample by itself
        with pytest.raises(ValueError, match="more than one value per channel") as error:
            layer(torch.zeros(shape))
        assert "\n" not in str(error.value)
        before.pop("num_batches_tracked")  # BatchNorm counts it too
        after = state(layer)
        after.pop("num_batches_tracked")
        assert_same(after, before)
    x = torch.zeros(shape, requires_grad=True)
    y = layer.eval()(x)
    assert y.shape == shape
    y.sum().backward()
    assert x.grad.shape == shape
