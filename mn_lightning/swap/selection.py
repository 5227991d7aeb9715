"""Turn what a user writes under ``layers`` into qualified names of norm layers."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

Pattern = str | type[nn.Module] | Callable[[str, nn.Module], bool]
"""A name, glob or keyword; a class of norm layers; or a function of a layer's name and the layer."""

Arguments = TypeVar("Arguments")

LayersFor = str | Sequence[Pattern] | Mapping[Pattern, Arguments | None] | type[nn.Module] | Callable[..., bool]
"""What selects layers: patterns, or a mapping from them to ``Arguments`` of a norm."""

LayerSpec = LayersFor[Mapping[str, Any]]

_SHOWN = 40
_COUNTED = re.compile(r"(first|last)(?::([1-9]\d*))?")


def select(
    layers: LayerSpec, candidates: Mapping[str, nn.Module], aliases: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """Resolve ``layers`` against the norm layers of a model, in the model's order.

    A pattern is ``all``, ``first``, ``last``, ``first:2`` (the first two), ``last:3`` (the last three), a name, or a
    glob. A name or glob selects a norm layer if it matches the layer's name, the name of a module around it, or an
    alias of the layer. Patterns are tried on whole names first. If one matches nothing, it is tried without the first
    part of the names, then without the second, and so on: ``conv3`` finds ``network.conv3.norm`` inside a
    LightningModule. ``last`` ignores auxiliary heads: layers inside a module whose name begins with ``aux``.

    ``!`` before a pattern removes the layers that it selects. If the first pattern has it, the selection starts with
    all layers.

    Args:
        layers: a pattern, a list of them, or a mapping from them to arguments.
        candidates: qualified name to norm layer.
        aliases: qualified alias to the names of the layers that it stands for.

    Returns:
        Layer's name to the arguments that a mapping gives for it, ``{}`` otherwise. If several patterns match, the last
        wins.

    Raises:
        TypeError: ``layers`` is none of the accepted forms.
        ValueError: ``layers`` is empty, a pattern matches nothing, or every layer is removed again.
    """
    if isinstance(layers, str) or callable(layers):
        layers = [layers]
    if isinstance(layers, (Sequence, Mapping)) and not layers:
        raise ValueError(f"layers got {layers!r}, which selects no layer; leave it out for all of them")
    if not isinstance(layers, Mapping):
        if not isinstance(layers, Sequence) or not all(isinstance(one, str) or callable(one) for one in layers):
            raise TypeError(
                f"layers got {layers!r}; it takes a name or glob, a list of them, or a mapping from them; a class of "
                "layers and a function of name and layer stand for a name, too"
            )
        layers = dict.fromkeys(layers)
    chosen: dict[str, dict[str, Any]] = {}
    for position, (pattern, arguments) in enumerate(layers.items()):
        if isinstance(pattern, str) and pattern.startswith("!"):
            if position == 0:
                chosen = {name: {} for name in candidates}
            for name in _matches(pattern[1:], candidates, aliases or {}):
                chosen.pop(name, None)
        else:
            for name in _matches(pattern, candidates, aliases or {}):
                chosen.setdefault(name, {}).update(arguments or {})
    if not chosen:
        raise ValueError(f"layers {list(layers)!r} leaves no layer: all that it selects are taken out again")
    return {name: chosen[name] for name in candidates if name in chosen}


def _matches(pattern: Pattern, candidates: Mapping[str, nn.Module], aliases: Mapping[str, Sequence[str]]) -> list[str]:
    names = list(candidates)
    if not names:
        raise ValueError(f"layers {pattern!r} matches nothing: the model has no BatchNorm layer to swap")
    if isinstance(pattern, str):
        return _keyword(pattern, names) or _by_name(pattern, names, aliases)
    if isinstance(pattern, type):
        found = [name for name, layer in candidates.items() if isinstance(layer, pattern)]
    else:
        found = [name for name, layer in candidates.items() if pattern(name, layer)]
    if not found:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in candidates.values()}))
        raise ValueError(f"layers {pattern!r} matches no norm layer; the model has layers of {kinds}: {_listed(names)}")
    return found


def _keyword(pattern: str, names: list[str]) -> list[str]:
    """The layers that a keyword such as ``all`` or ``first:2`` selects; nothing for another pattern."""
    if pattern == "all":
        return names
    counted = _COUNTED.fullmatch(pattern)
    if not counted:
        return []
    count = int(counted[2] or 1)
    if counted[1] == "first":
        return names[:count]
    main = [name for name in names if not any(part.lower().startswith("aux") for part in name.split("."))]
    return (main or names)[-count:]


def _by_name(pattern: str, names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> list[str]:
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
    """The name of a layer and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _without(skipped: int, paths: Sequence[str]) -> list[str]:
    """The paths that have more than ``skipped`` parts, without their first ``skipped`` parts."""
    return [".".join(parts[skipped:]) for path in paths if len(parts := path.split(".")) > skipped]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
