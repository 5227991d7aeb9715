"""Input that is not contiguous gives what its contiguous copy gives."""

import copy

import pytest
import torch
from helpers.layers import Case, assert_same, outcome, some_input, state
from torch import Tensor

WITH_TORCH = True


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "every other":
        return x.repeat_interleave(2, 0)[::2]
    if layout == "slice":
        big = torch.full((x.shape[0], x.shape[1] + 1, *(2 * size for size in x.shape[2:])), 1e3, dtype=x.dtype)
        return big[(slice(None), slice(1, None), *(slice(None, None, 2) for _ in x.shape[2:]))].copy_(x)
    if layout == "expanded":
        return x[:1].expand_as(x)
    return x.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "layout"),
    [(shape, layout) for shape in ((24, 3), (8, 3, 4, 2)) for layout in ("every other", "slice", "transposed")]
    + [((8, 3, 4), "expanded"), ((6, 3, 2, 3, 2), "transposed")],
)
def test_input_with_other_strides(case: Case, shape: tuple[int, ...], layout: str, training: bool) -> None:
    layer = case.in_use(dtype=torch.float64).train(training)
    other = copy.deepcopy(layer)
    x = some_input(shape, torch.float64)
    x = x[:1].expand_as(x).contiguous() if layout == "expanded" else x
    strided = arranged(x, layout)
    assert torch.equal(x, strided)
    assert not strided.is_contiguous()
    assert_same(outcome(other, strided), outcome(layer, x), 1e-8)
    assert_same(state(other), state(layer), 1e-8)
