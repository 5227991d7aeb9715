"""channels_last in, channels_last out, and nothing of the activation's size is copied on the way."""

import copy
from typing import Any

import pytest
import torch
from helpers.layers import Case, assert_same, some_input, state
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

COPIES = {"aten.clone.default", "aten.copy_.default", "aten._to_copy.default", "aten.contiguous.default"}
WITH_TORCH = True


class Copies(TorchDispatchMode):
    """Names of the operations that copy ``size`` numbers or more."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if str(func) in COPIES and isinstance(result, Tensor) and result.numel() >= self.size:
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((16, 6, 20, 20), torch.channels_last),
        ((16, 6, 20, 20), torch.contiguous_format),
        ((4, 6, 8, 8, 8), torch.channels_last_3d),
        ((256, 6), torch.contiguous_format),
    ],
    ids=str,
)
@pytest.mark.usefixtures("small_blocks")  # smaller than the activation, as they are in practice
def test_no_copy(case: Case, shape: tuple[int, ...], memory_format: torch.memory_format, training: bool) -> None:
    # One mixture per channel is not made for speed, and a queue of all rows is a copy of them.
    if case.arguments.get("granularity") == "channel" or case.arguments.get("queue_rows_per_batch", 1) is None:
        pytest.skip("copies by design")
    more = {} if case.kind.__name__ != "MixtureNorm" else {"queue_rows_per_batch": 64}
    layer = Case(case.kind, case.arguments | more, case.flaw).make(6).train(training)
    x, gradient = (torch.randn(shape).contiguous(memory_format=memory_format) for _ in range(2))
    x.requires_grad_()
    with Copies(x.numel()) as copies:
        y = layer(x)
        y.backward(gradient)
    assert copies.found == []
    assert y.stride() == x.stride() == x.grad.stride()


def test_a_copy_is_seen() -> None:
    x = torch.randn(2, 6, 5, 5)
    with Copies(x.numel()) as copies:
        x.contiguous(memory_format=torch.channels_last)
    assert copies.found == ["aten.clone.default"]


@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((8, 3, 4, 2), torch.contiguous_format),
        ((8, 3, 4, 2), torch.channels_last),
        ((6, 3, 2, 3, 2), torch.channels_last_3d),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_kept_and_of_no_influence(
    case: Case, training: bool, shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    layer = case.in_use().train(training)
    other = copy.deepcopy(layer)
    x = some_input(shape)
    y = layer(x.contiguous(memory_format=memory_format))
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, other(x), rtol=1e-4, atol=1e-4)
    found, expected = state(layer), state(other)
    if not training:
        found.pop("queue.rows", None), expected.pop("queue.rows", None)
    assert_same(found, expected, 1e-5)
