"""Checks that functions and layers share; each says in one line what was given and what is accepted."""

from collections.abc import Collection

from torch import Tensor


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
