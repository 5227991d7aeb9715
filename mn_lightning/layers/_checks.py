"""Checks that the layers share; each says in one line what was given and what is accepted."""

from collections.abc import Collection

from torch import Tensor


def check_at_least(layer: str, name: str, value: float, least: float) -> None:
    """Refuse a ``value`` below ``least``."""
    if not value >= least:
        raise ValueError(f"{layer} got {name}={value!r}; it takes {name} >= {least}")


def check_choice(layer: str, name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a ``value`` that is none of ``choices``."""
    if value not in choices:
        raise ValueError(f"{layer} got {name}={value!r}; it takes one of {', '.join(map(repr, choices))}")


def check_channels(layer: str, input: Tensor, num_features: int) -> None:
    """Refuse an input that is not ``(N, num_features)`` or ``(N, num_features, *)``."""
    if input.dim() < 2 or input.shape[1] != num_features:
        raise ValueError(
            f"{layer}({num_features}) got input of shape {tuple(input.shape)}; "
            f"it takes (N, {num_features}) or (N, {num_features}, *)"
        )
