"""The record of a swap: kept on the swapped layer, and written into the state dict beside its weights.

A swap is recorded nowhere else. Loading a checkpoint, resuming a run and swapping a layer again all read this record.
In a state dict the record is an entry of its own: JSON, as bytes in a tensor. So it survives copies of the dict,
averages of weights and safetensors, all of which lose a state dict's metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mn_lightning.layers.loading import SWAP_RECORD, before_loading

MARK = SWAP_RECORD
"""Attribute of a swapped layer that holds its settings, and the last part of the record's key in a state dict."""

_CHECKPOINT_KEY_0_1 = "swapped_layers"
"""Key under which version 0.1 kept the settings in Lightning's checkpoints; in state dicts it used the metadata."""

_UNSAVED = "not saved"


def settings_of(norm: str, arguments: Mapping[str, Any], fuse_activation: bool) -> dict[str, Any]:
    """Return the settings of a swap as JSON types, so that settings that are equal now are equal after a reload too."""
    plain = {key: value if _is_plain(value) else {_UNSAVED: _text(value)} for key, value in arguments.items()}
    settings: dict[str, Any] = json.loads(
        json.dumps({"norm": norm, "arguments": plain, "fuse_activation": fuse_activation})
    )
    return settings


def unsaved(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments that JSON cannot hold, such as a function, each with its text for messages."""
    arguments = settings["arguments"].items()
    return {key: value[_UNSAVED] for key, value in arguments if isinstance(value, dict) and _UNSAVED in value}


def describe(settings: Mapping[str, Any]) -> str:
    """Write settings as a call: ``mixture(n_components=3)``."""
    texts = unsaved(settings)
    arguments = [f"{key}={texts.get(key, repr(value))}" for key, value in sorted(settings["arguments"].items())]
    return f"{settings['norm']}({', '.join(arguments + ['fuse_activation=True'] * settings['fuse_activation'])})"


DEFAULT = "the default"
"""Stands for an argument that was not given, when settings are compared."""


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the differences between two settings of a swap: name to the value then and the value now."""
    before, after = ({**settings, **settings["arguments"]} for settings in (then, now))
    names = [name for name in sorted({*before, *after} - {"arguments"}) if before.get(name) != after.get(name)]
    return {name: (_value(before, name), _value(after, name)) for name in names}


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the differences between two settings of a swap: ``em_iters was 2 and is 4``."""
    return "; ".join(f"{name} was {was} and is {value}" for name, (was, value) in differences(then, now).items())


def _value(settings: Mapping[str, Any], name: str) -> Any:
    value = settings.get(name, DEFAULT)
    return value.get(_UNSAVED, value) if isinstance(value, dict) else value


# --- on a layer ---------------------------------------------------------------------------------------------------


def mark_as_swapped(layer: nn.Module, settings: dict[str, Any], replaced: bool) -> None:
    """Keep ``settings`` on ``layer``, and write them into its state dicts if the layer has ``replaced`` another one."""
    setattr(layer, MARK, settings)
    if replaced:
        layer.register_state_dict_post_hook(_write)  # type: ignore[no-untyped-call]
        layer.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]


def is_swapped(layer: nn.Module) -> bool:
    """Whether the layer was put in, or left in its place, by a swap."""
    return hasattr(layer, MARK)


def swap_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the settings of each swapped layer of ``model``, as JSON types, by its qualified name.

    Examples:
        >>> from mn_lightning import swap_norms
        >>> model = nn.Sequential(nn.BatchNorm1d(4))
        >>> _ = swap_norms(model, norm="mixture", n_components=2)
        >>> swap_settings(model)
        {'0': {'norm': 'mixture', 'arguments': {'n_components': 2}, 'fuse_activation': False}}
    """
    return {name: getattr(layer, MARK) for name, layer in model.named_modules() if is_swapped(layer)}


def _write(layer: nn.Module, state_dict: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
    state_dict[prefix + MARK] = torch.tensor(list(json.dumps(getattr(layer, MARK)).encode()), dtype=torch.uint8)


# --- in a state dict ----------------------------------------------------------------------------------------------


def recorded_settings(state_dict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of each layer that was swapped when ``state_dict`` was saved, by its qualified name."""
    found = {
        key.removesuffix(MARK).removesuffix("."): _read(value)
        for key, value in state_dict.items()
        if key.rpartition(".")[2] == MARK
    }
    metadata = getattr(state_dict, "_metadata", {})  # of version 0.1
    return found or {name: values[MARK] for name, values in metadata.items() if MARK in values}


def settings_in_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return :func:`recorded_settings` of the weights in a Lightning checkpoint."""
    return recorded_settings(checkpoint["state_dict"]) or checkpoint.get(_CHECKPOINT_KEY_0_1, {})


def _read(record: Tensor) -> dict[str, Any]:
    # An average of weights may have turned the bytes into floating point; the average of equal numbers is that number.
    settings: dict[str, Any] = json.loads(bytes(record.round().to(torch.uint8).tolist()))
    return settings


# --- what JSON can hold -------------------------------------------------------------------------------------------


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _text(value: Any) -> str:
    """Name of a function or class with its module (its repr would hold an address); the repr of anything else."""
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else repr(value)
