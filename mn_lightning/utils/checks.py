"""Checks of what was given; each says in one line what that was and what is accepted."""

import math
from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number: True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_at_least(owner: str, name: str, value: object, least: int, also: str = "") -> None:
    """Refuse a ``value`` that is no whole number or below ``least``; ``also`` tells the user what else is accepted."""
    whole = is_number(value) and isinstance(value, Integral)
    if not whole or value < least:  # type: ignore[operator]
        kind = "" if whole else ", a whole number"
        alternatives = f", {also}" if also else ""
        raise ValueError(f"{owner} got {name}={value!r}; it takes {name} >= {least}{kind}{alternatives}")


def check_counts(owner: str, **counts: object) -> None:
    """Refuse a count that is no whole number or below 1."""
    for name, value in counts.items():
        check_at_least(owner, name, value, 1)


def check_eps(owner: str, eps: object) -> None:
    """Refuse what cannot be added to a variance."""
    if not is_number(eps) or not 0 <= eps < math.inf:  # type: ignore[operator]
        raise ValueError(f"{owner} got eps={eps!r}; it takes eps >= 0, such as 1e-5")


def check_momentum(owner: str, momentum: object) -> None:
    """Refuse what is no weight of a running average's new value, nor None."""
    if momentum is not None and not (is_number(momentum) and 0 <= momentum <= 1):  # type: ignore[operator]
        raise ValueError(f"{owner} got momentum={momentum!r}; it takes 0 <= momentum <= 1, or None")


def check_flags(owner: str, **flags: object) -> None:
    """Refuse a flag that is neither True nor False: any text would count as True."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{owner} got {name}={value!r}; it takes True or False")


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
