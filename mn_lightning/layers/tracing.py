"""torch.fx makes one node of a layer of ours, as it does of torch's own layers."""

from typing import Any

from torch import fx, nn


def as_one_node(layer: nn.Module, input: Any) -> Any:
    """Return the node of a call of ``layer``, if ``input`` is a symbol of :mod:`torch.fx`; None otherwise.

    A tracer goes into modules that are not torch's. What it would find in ours depends on shapes and values, and has
    none.
    """
    if not isinstance(input, fx.Proxy):
        return None
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(layer), (input,), {})  # type: ignore[attr-defined]
