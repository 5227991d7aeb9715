"""channels_last in, channels_last out, and nothing of the activation's size is copied on the way."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils._python_dispatch import TorchDispatchMode

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm

LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "mixture": (MixtureNorm, {"queue_rows_per_batch": 64}),
    "mixture with activation": (MixtureNorm, {"queue_rows_per_batch": 64, "activation": relu}),
    "mixture with components' affine": (MixtureNorm, {"queue_rows_per_batch": 64, "affine": "component"}),
    "mode": (ModeNorm, {}),
    "mode group": (ModeGroupNorm, {}),
}
COPIES = {"aten.clone.default", "aten.copy_.default", "aten._to_copy.default", "aten.contiguous.default"}


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
        ((64, 6), torch.contiguous_format),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", LAYERS)
def test_no_copy(
    name: str,
    shape: tuple[int, ...],
    memory_format: torch.memory_format,
    training: bool,
) -> None:
    kind, arguments = LAYERS[name]
    layer = kind(6, **arguments).train(training)
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
