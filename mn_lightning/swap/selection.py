"""From what a user writes under ``layers`` to the qualified names of norm layers."""

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

LayerSpec = str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]

_SHOWN = 40


def select(
    layers: LayerSpec, names: Sequence[str], aliases: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Resolve ``layers`` against the qualified ``names`` of a model's norm layers, in the model's order.

    A pattern is ``first``, ``last``, ``all``, or a name or glob. It selects a norm layer if it matches the layer's
    name, that of a module around it, or an alias that stands for the layer. Patterns are tried on whole names; where
    one matches nothing, the first part of the names is left out, then the second, and so on: ``conv3`` finds
    ``network.conv3.norm`` inside a LightningModule.

    Args:
        layers: a pattern, a list of them, or a mapping from them to arguments.
        names: of the norm layers.
        aliases: qualified alias to the names of the layers that it stands for.

    Returns:
        Name to the arguments that a mapping gives it, ``{}`` otherwise; of several matching patterns the last wins.

    Raises:
        TypeError: ``layers`` is none of the accepted forms.
        ValueError: a pattern matches nothing.
    """
    if isinstance(layers, str):
        layers = [layers]
    if not isinstance(layers, Mapping):
        if not isinstance(layers, Sequence) or not all(isinstance(pattern, str) for pattern in layers):
            raise TypeError(f"layers got {layers!r}; it takes a name or glob, a list of them, or a mapping from them")
        layers = dict.fromkeys(layers)
    chosen: dict[str, dict[str, Any]] = {}
    for pattern, arguments in layers.items():
        for name in _matches(pattern, names, aliases or {}):
            chosen.setdefault(name, {}).update(arguments or {})
    return {name: chosen[name] for name in names if name in chosen}


def _matches(pattern: str, names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> list[str]:
    if not names:
        raise ValueError(f"layers {pattern!r} matches nothing: the model has no BatchNorm layer to swap")
    keywords = {"first": names[:1], "last": names[-1:], "all": names}
    if pattern in keywords:
        return list(keywords[pattern])
    paths = {name: _modules_around(name) for name in names}
    for alias, members in aliases.items():
        for name in members:
            paths[name].append(alias)
    depth = max(path.count(".") + 1 for around in paths.values() for path in around)
    for skipped in range(depth):
        found = [name for name in names if any(fnmatchcase(path, pattern) for path in _without(skipped, paths[name]))]
        if found:
            return found
    known = {path for around in paths.values() for skipped in range(depth) for path in _without(skipped, around)}
    nearest = difflib.get_close_matches(pattern, sorted(known), n=1, cutoff=0.0)
    also = f", with the aliases {_listed(list(aliases))}" if aliases else ""
    raise ValueError(
        f"layers {pattern!r} matches no norm layer; the nearest is {nearest[0]!r}; "
        f"the model's norm layers are {_listed(names)}{also} (first, last and all are accepted too)"
    )


def _modules_around(name: str) -> list[str]:
    """A layer's name and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _without(skipped: int, paths: Sequence[str]) -> list[str]:
    """The paths that have more than ``skipped`` parts, without the first ``skipped`` of them."""
    return [".".join(parts[skipped:]) for path in paths if len(parts := path.split(".")) > skipped]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
