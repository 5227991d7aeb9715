"""Call a model with what a DataLoader gives."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def call_model(model: nn.Module, batch: Any, device: torch.device) -> Any:
    """Call ``model`` with the inputs in ``batch``.

    Args:
        model: any module.
        batch: a tensor; a tuple or list that begins with one, whose rest (labels, mostly) is left out; or a mapping,
            whose entries become keyword arguments.
        device: where tensors are moved to.

    Raises:
        TypeError: ``batch`` is something else; with one line.
    """
    if isinstance(batch, Mapping) and any(isinstance(value, Tensor) for value in batch.values()):
        return model(**{key: _moved(value, device) for key, value in batch.items()})
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(first, Tensor):
        raise TypeError(
            f"update_norms got a batch of type {type(batch).__name__}; it takes tensors, or tuples and lists that "
            "begin with one, or mappings of tensors: give the model's inputs alone, as in "
            "({'image': batch['image'], 'mask': batch['mask']} for batch in loader)"
        )
    return model(first.to(device))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
