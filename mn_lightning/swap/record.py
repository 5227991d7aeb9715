"""What was swapped for what, written into the metadata of state dicts: it travels with the weights, in plain types."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

MARK = "_swapped_for"
"""Attribute of a swapped layer that holds its settings."""

RECORD = "swapped_layers"
"""Key of Lightning's checkpoints with the settings by the layers' names, as :func:`recorded_settings` returns them."""

_UNSAVED = "not saved"


def settings_of(norm: str, arguments: Mapping[str, Any], fuse_activation: bool) -> dict[str, Any]:
    """Settings of a swap as plain values, equal for equal settings also after the model was copied or pickled."""
    plain = {key: value if _is_plain(value) else {_UNSAVED: _text(value)} for key, value in arguments.items()}
    return {"norm": norm, "arguments": plain, "fuse_activation": fuse_activation}


def unsaved(settings: Mapping[str, Any]) -> dict[str, str]:
    """Arguments among ``settings`` that are no plain values, with how they are written."""
    arguments = settings["arguments"].items()
    return {key: value[_UNSAVED] for key, value in arguments if isinstance(value, dict) and _UNSAVED in value}


def describe(settings: Mapping[str, Any]) -> str:
    """Settings in the form of a call, as ``mixture(n_components=3)``."""
    texts = unsaved(settings)
    arguments = [f"{key}={texts.get(key, repr(value))}" for key, value in sorted(settings["arguments"].items())]
    return f"{settings['norm']}({', '.join(arguments + ['fuse_activation=True'] * settings['fuse_activation'])})"


def record_settings(layer: nn.Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
    """Hook of a swapped layer on ``state_dict()``."""
    local_metadata[MARK] = getattr(layer, MARK)


def recorded_settings(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Qualified name of each layer that had been swapped when ``state_dict`` was taken, to its settings.

    Empty where the metadata was lost, as it is when a state dict is copied entry by entry.
    """
    metadata = getattr(state_dict, "_metadata", {})
    return {name: values[MARK] for name, values in metadata.items() if MARK in values}


def check_layers(model: nn.Module, state_dict: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a state dict whose norm layers were swapped otherwise than those of ``model``.

    torch's own message would name keys; this one names the layer and what to do. A layer is at fault if what was saved
    for it has other names or shapes than it has.

    Raises:
        RuntimeError: with one line for the first such layer.
    """
    recorded = recorded_settings(state_dict)
    for name, layer in model.named_modules():
        if not (isinstance(layer, _BatchNorm) or hasattr(layer, MARK)):
            continue
        start = f"{prefix}{name}."
        saved = {key[len(start) :]: value for key, value in state_dict.items() if key.startswith(start)}
        then, now = _shapes(saved.items()), _shapes(layer.state_dict().items())
        # A swapped layer of a norm without state has left no key, but a record.
        if (not saved and name not in recorded) or then == now:
            continue
        if recorded.get(name) == getattr(layer, MARK, None) and then.keys() == now.keys():
            key = next(key for key in now if then[key] != now[key])
            both = f", with the same {describe(recorded[name])}" if name in recorded else ""
            raise RuntimeError(
                f"{start}{key} has shape {then[key]} in the checkpoint and {now[key]} in the model{both}: the network "
                "is another one, or the file was changed or damaged; build it with the arguments of the training"
            )
        there = describe(recorded[name]) if name in recorded else f"one with {', '.join(saved)}"
        here = describe(getattr(layer, MARK)) if hasattr(layer, MARK) else type(layer).__name__
        raise RuntimeError(
            f"{start[:-1]} was {there} when the checkpoint was saved and is {here} now: load it with "
            f"mn_lightning.checkpoints.load_from_checkpoint({type(model).__name__}, path, ...), or swap the same "
            "layers first, with NormSwapCallback or swap_norms"
        )


def _shapes(entries: Iterable[tuple[str, Any]]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in entries if isinstance(value, Tensor)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or type(value) in (bool, int, float, str)


def _text(value: Any) -> str:
    """Text without an address, where there is one."""
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else repr(value)
