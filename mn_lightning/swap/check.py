"""Refuse weights that were saved with other norm layers than the model has, and say which swap is missing."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.swap.record import DEFAULT, MARK, describe, differences, is_swapped, recorded_settings

_IN_THE_SHAPES = ("n_components", "affine", "granularity")
_IN_TRAINING_ALONE = {
    "mixture": (
        *("em_iters", "fit_rows", "refit_iters", "min_weight", "sync"),
        *("queue_size", "queue_decay", "queue_rows_per_batch"),
    ),
    "mode": ("momentum", "running", "sync"),
    "batch": ("momentum",),
}
"""Settings of a norm that do not change what given weights compute in evaluation."""


def check_layers(model: nn.Module, state_dict: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a state dict whose norm layers were swapped differently from those of ``model``.

    torch's own message would name keys; this one names the layer and what to do. A layer is refused if the entries
    saved for it have other names or shapes than the layer has, or if it was saved with settings that give other outputs
    in evaluation for the same weights, such as another ``eps``.

    Args:
        model: the model that is about to load the state dict.
        state_dict: the state dict.
        prefix: of the model's keys in the state dict.

    Raises:
        RuntimeError: one line about the first such layer.
    """
    recorded = recorded_settings(state_dict)
    for name, layer in model.named_modules():
        if not (isinstance(layer, _BatchNorm) or is_swapped(layer)):
            continue
        start = f"{prefix}{name}."
        saved = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
        then, now = _shapes(saved.items()), _shapes(layer.state_dict().items())
        settings_then, settings_now = recorded.get(start[:-1]), getattr(layer, MARK, None)
        if not then and settings_then is None:
            continue  # torch will say which keys are missing
        if then == now or (not recorded and _is_batch_norms(then, layer)):
            if settings_then and settings_now:
                _check_settings(start[:-1], layer, settings_then, settings_now)
            continue
        if settings_then == settings_now and then.keys() == now.keys():
            raise RuntimeError(_of_another_size(start, then, now, settings_then))
        there = describe(settings_then) if settings_then else f"one with {', '.join(then)}"
        here = describe(settings_now) if settings_now else type(layer).__name__
        raise RuntimeError(
            f"{start[:-1]} was {there} when the checkpoint was saved and is {here} now: load it with "
            f"mn_lightning.checkpoints.load_from_checkpoint({type(model).__name__}, path, ...), or swap the same "
            "layers first, with NormSwapCallback or swap_norms"
        )


def _check_settings(name: str, layer: nn.Module, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if then["norm"] != now["norm"]:
        changed = {"norm": (then["norm"], now["norm"])}
    else:
        unimportant = (*_IN_THE_SHAPES, *_IN_TRAINING_ALONE.get(now["norm"], ()))
        changed = {
            key: values
            for key, values in differences(then, now).items()
            if key not in unimportant and not _mean_the_same(key, *values, layer)
        }
    for key, (before, after) in changed.items():
        raise RuntimeError(
            f"{name} had {key}={before} when the checkpoint was saved and has {key}={after} now, with which the same "
            f"weights compute something else: give {key} as in the training"
        )


def _mean_the_same(key: str, before: Any, after: Any, layer: nn.Module) -> bool:
    """Whether one of the values is the default, and the other one is what the default means for ``layer``."""
    if key == "eps":  # the default is the replaced BatchNorm's own value, which only the layer knows
        return bool(after == DEFAULT and before == getattr(layer, "eps", None))
    known = inspect.signature(type(layer)).parameters.get(key)
    return known is not None and {before, after} == {DEFAULT, known.default}


def _is_batch_norms(shapes: Mapping[str, tuple[int, ...]], layer: nn.Module) -> bool:
    """Whether these are the shapes of a BatchNorm with as many channels as ``layer``, which can start from it."""
    if not isinstance(layer, (MixtureNorm, ModeNorm, ModeGroupNorm)):
        return False
    return shapes.get("running_mean") == shapes.get("running_var") == (layer.num_features,)


def _of_another_size(
    start: str,
    then: Mapping[str, tuple[int, ...]],
    now: Mapping[str, tuple[int, ...]],
    settings: Mapping[str, Any] | None,
) -> str:
    key = next(key for key in now if then[key] != now[key])
    both = f", with the same {describe(settings)}" if settings else ""
    return (
        f"{start}{key} has shape {then[key]} in the checkpoint and {now[key]} in the model{both}: the network is "
        "another one, or the file was changed or damaged; build it with the arguments of the training"
    )


def _shapes(entries: Iterable[tuple[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's parameters and buffers, by name, without the record of the swap."""
    return {key: tuple(value.shape) for key, value in entries if isinstance(value, Tensor) and key != MARK}
