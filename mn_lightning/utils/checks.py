"""Checks that functions and layers share; each says in one line what was given and what is accepted."""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader


def check_at_least(owner: str, name: str, value: object, least: float, also: str = "") -> None:
    """Refuse a ``value`` that is no number or below ``least``; ``also`` tells the user what else is accepted."""
    if not isinstance(value, (int, float)) or not value >= least:
        alternatives = f", {also}" if also else ""
        raise ValueError(f"{owner} got {name}={value!r}; it takes {name} >= {least}{alternatives}")


def check_choice(owner: str, name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a ``value`` that is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner} got {name}={value!r}; it takes one of {', '.join(map(repr, choices))}")


def check_channels(layer: str, input: Tensor, num_features: int) -> None:
    """Refuse an input that is not ``(N, num_features)`` or ``(N, num_features, *)``."""
    if input.dim() < 2 or input.shape[1] != num_features:
        raise ValueError(
            f"{layer}({num_features}) got input of shape {tuple(input.shape)}; "
            f"it takes (N, {num_features}) or (N, {num_features}, *)"
        )


def check_input(owner: str, input: Tensor) -> None:
    """Refuse an input that is not floating point of shape ``(N, C)`` or ``(N, C, *)``."""
    if input.dim() < 2:
        raise ValueError(f"{owner} got input of shape {tuple(input.shape)}; it takes (N, C) or (N, C, *)")
    if not input.is_floating_point():
        raise ValueError(f"{owner} got input of dtype {input.dtype}; it takes floating point, call .float() on it")


def check_rows(owner: str, input: Tensor) -> None:
    """Refuse an input with fewer than two values for each channel."""
    if input.numel() <= input.shape[1]:
        raise ValueError(
            f"{owner} expected more than one value per channel in training, got input of shape "
            f"{tuple(input.shape)}; use a larger batch or drop_last=True in the DataLoader"
        )


def sized_dataset(loader: object, message: Callable[[str], str]) -> Any:
    """Return the dataset of a DataLoader; refuse anything else, and a dataset without a length.

    Args:
        loader: what should be a DataLoader.
        message: makes the error's text of what was given.
    """
    if isinstance(loader, DataLoader) and hasattr(loader.dataset, "__len__"):
        return loader.dataset
    given = f"a loader of {type(loader.dataset).__name__}" if isinstance(loader, DataLoader) else f"{type(loader)}"
    raise ValueError(message(given))


def describe(value: object) -> str:
    """Return how an error names a value that should have been another tensor: ``shape (2, 3)`` or ``a list``."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
