"""torch.fx makes one node of a layer of ours, as it does of torch's own layers."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, fx

_Layer = TypeVar("_Layer")


def one_node(forward: Callable[[_Layer, Tensor], Tensor]) -> Callable[[_Layer, Tensor], Tensor]:
    """Let ``forward``, called with a symbol of :mod:`torch.fx`, become the node of a call of its layer.

    A tracer goes into modules that are not torch's. What it would find in ours depends on shapes and values, and a
    symbol has none.
    """

    @functools.wraps(forward)
    def wrapper(self: _Layer, input: Any) -> Any:
        if isinstance(input, fx.Proxy):
            path = input.tracer.path_of_module(self)  # type: ignore[attr-defined]
            return input.tracer.create_proxy("call_module", path, (input,), {})
        return forward(self, input)

    return wrapper
