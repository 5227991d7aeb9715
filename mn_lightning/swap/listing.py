"""List the norm layers of a model, to know what can be written under ``layers``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mn_lightning.swap.candidates import norm_candidates
from mn_lightning.utils.restore import modes_untouched


class NormLayer(NamedTuple):
    """One norm layer of a model.

    Attributes:
        name: qualified name.
        kind: class name.
        num_features: number of channels C; None for a norm of the user's own that has no such attribute.
        input_shape: shape of its input without the batch dimension, ``(C, *)``; None if the model was not run, or did
            not call the layer.

    Examples:
        >>> norm_layers(nn.Sequential(nn.BatchNorm1d(4)))
        [NormLayer(name='0', kind='BatchNorm1d', num_features=4, input_shape=None)]
    """

    name: str
    kind: str
    num_features: int | None
    input_shape: tuple[int, ...] | None


def norm_layers(model: nn.Module, example_input: Any = None) -> list[NormLayer]:
    """List the norm layers of ``model`` that can be swapped or have been swapped, in the model's order.

    Args:
        model: any module.
        example_input: a batch to run the model on, in evaluation and without gradients, for the layers' input shapes:
            a tensor, a tuple of arguments, or a mapping of keyword arguments.

    Returns:
        One entry for each layer.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> [layer] = norm_layers(model, torch.randn(1, 3, 16, 16))
        >>> layer.name, layer.kind, layer.input_shape
        ('1', 'BatchNorm2d', (8, 14, 14))
    """
    candidates = norm_candidates(model)
    shapes = {} if example_input is None else _input_shapes(model, candidates, example_input)
    return [
        NormLayer(name, type(layer).__name__, _num_features(layer), shapes.get(name))
        for name, layer in candidates.items()
    ]


def _num_features(layer: Any) -> int | None:
    return getattr(layer, "num_features", getattr(layer, "num_channels", None))


@torch.no_grad()
def _input_shapes(
    model: nn.Module, layers: dict[str, nn.Module], example_input: Any
) -> dict[str, tuple[int, ...] | None]:
    shapes: dict[str, tuple[int, ...] | None] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shapes[name] = tuple(inputs[0].shape[1:])

        return hook

    handles = [layer.register_forward_pre_hook(record(name)) for name, layer in layers.items()]
    try:
        with modes_untouched(model):
            model.eval()
            if isinstance(example_input, Mapping):
                model(**example_input)
            else:
                model(*(example_input if isinstance(example_input, tuple) else (example_input,)))
    finally:
        for handle in handles:
            handle.remove()
    return shapes
