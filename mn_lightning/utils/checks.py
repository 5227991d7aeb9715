"""Checks of what was given; each says in one line what that was and what is accepted."""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader


def check_at_least(owner: str, name: str, value: object, least: float, also: str = "") -> None:
    """Refuse a ``value`` that is no number or below ``least``; ``also`` tells the user what else is accepted."""
    if not isinstance(value, (int, float)) or not value >= least:
        alternatives = f", {also}" if also else ""
        raise ValueError(f"{owner} got {name}={value!r}; it takes {name} >= {least}{alternatives}")


def check_counts(owner: str, **counts: object) -> None:
    """Refuse a count that is no number or below 1."""
    for name, value in counts.items():
        check_at_least(owner, name, value, 1)


def check_choice(owner: str, name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a ``value`` that is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner} got {name}={value!r}; it takes one of {', '.join(map(repr, choices))}")


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
