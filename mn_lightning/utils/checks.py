"""Checks of options; each says in one line what was given and what is accepted."""

from collections.abc import Collection


def check_at_least(owner: str, name: str, value: object, least: float, also: str = "") -> None:
    """Refuse a ``value`` that is no number or below ``least``; ``also`` tells the user what else is accepted."""
    if not isinstance(value, (int, float)) or not value >= least:
        alternatives = f", {also}" if also else ""
        raise ValueError(f"{owner} got {name}={value!r}; it takes {name} >= {least}{alternatives}")


def check_choice(owner: str, name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a ``value`` that is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner} got {name}={value!r}; it takes one of {', '.join(map(repr, choices))}")
