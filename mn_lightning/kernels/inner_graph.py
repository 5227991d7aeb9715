"""The small graph between the large passes: from moments and parameters to the map that is applied to the activation.

The norms read an activation once or twice to get a few numbers for each channel, compute with these, and apply what
comes out to the activation. The large passes have backward passes by hand; what is between them is left to autograd.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Maps = tuple[Tensor, ...]


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether there will be a backward pass for one of them; inside an autograd.Function it is too late to ask."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def differentiable_gradients(y: Tensor, dy: Tensor, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of ``inputs`` with a graph of their own (gradient penalties), where ``y`` is the plain formula's."""
    learned = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, learned, dy, create_graph=True, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


class InnerGraph:
    """``function(*moments, *parameters)``, with a graph that ends at the moments and the parameters.

    Args:
        function: returns tensors of which the first two are those that gradients come from.
        moments: what a large pass has found, without a graph.
        parameters: still attached to their graph; ``None`` where the norm has none.
        wanted: whether there will be a backward pass.
    """

    def __init__(
        self,
        function: Callable[..., Maps],
        moments: Sequence[Tensor],
        parameters: Sequence[Tensor | None],
        wanted: bool,
    ) -> None:
        self.moments = [moment.detach().requires_grad_(wanted) for moment in moments]
        self.parameters = parameters
        # Kept as they are: activation checkpointing would run the whole forward pass again for this graph alone.
        # Detached: an operation that keeps its own output, as exp does, would otherwise hold itself alive for ever.
        keep = saved_tensors_hooks(Tensor.detach, lambda tensor: tensor)
        with torch.set_grad_enabled(wanted), keep:
            self._outputs = function(*self.moments, *parameters)
        self.outputs = tuple(output.detach() for output in self._outputs)

    def backward(self, *grads: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """Gradients of the moments and of the parameters from those of the first outputs."""
        learned = [p for p in self.parameters if p is not None and p.requires_grad]
        found = torch.autograd.grad(
            self._outputs[: len(grads)],
            [*self.moments, *learned],
            grads,
            retain_graph=True,  # a caller who keeps the graph of the whole may come again
            allow_unused=True,
        )
        n = len(self.moments)
        moments = [
            torch.zeros_like(moment) if grad is None else grad
            for moment, grad in zip(self.moments, found[:n], strict=True)
        ]
        of_learned = iter(found[n:])
        return moments, [next(of_learned) if p is not None and p.requires_grad else None for p in self.parameters]
