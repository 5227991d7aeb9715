"""Repeat the swaps that a state dict or a checkpoint has recorded."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mn_lightning.swap.candidates import norm_candidates
from mn_lightning.swap.record import describe, recorded_settings, unsaved
from mn_lightning.swap.registry import is_known
from mn_lightning.swap.report import SwapReport
from mn_lightning.swap.surgery import swap_chosen


def swap_as_saved(model: nn.Module, state_dict: Mapping[str, Any]) -> SwapReport:
    """Swap the layers of ``model`` that had been swapped when ``state_dict`` was saved, with the same settings.

    ``model.load_state_dict(state_dict)`` then finds the layers that it needs.

    Args:
        model: as it was before its layers were swapped.
        state_dict: what ``model.state_dict()`` returned after the swap. A copy as a plain dict, one that was saved as
            safetensors, and that of a DDP or compiled model around it are accepted too.

    Returns:
        What was replaced.

    Raises:
        ValueError: ``state_dict`` has no record of a swap; the model has no such layer; or a setting cannot be saved,
            such as an ``activation`` that was given as a function.

    Examples:
        >>> from mn_lightning import swap_norms
        >>> trained = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        >>> _ = swap_norms(trained, norm="mixture", n_components=2)
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        >>> print(swap_as_saved(model, trained.state_dict()))
        1: BatchNorm1d(4) -> MixtureNorm(4, n_components=2, em_iters=2, eps=1e-05)
        >>> model.load_state_dict(trained.state_dict())
        <All keys matched successfully>
    """
    recorded = recorded_settings(state_dict)
    if not recorded:
        raise ValueError(
            "the state dict has no record of swapped layers; if there were any, swap them with swap_norms before you "
            "load it, otherwise load it as it is"
        )
    return swap_as_recorded(model, recorded)


def swap_as_recorded(model: nn.Module, recorded: Mapping[str, dict[str, Any]]) -> SwapReport:
    """Swap the layers that are named in ``recorded``, with the settings that ``swap_settings`` has returned for them.

    Args:
        model: as it was before its layers were swapped.
        recorded: qualified name to settings.

    Returns:
        What was replaced.

    Raises:
        ValueError: the model has no such layer, or a setting could not be saved.

    Examples:
        >>> settings = {"norm": "mode", "arguments": {"n_components": 3}, "fuse_activation": False}
        >>> print(swap_as_recorded(nn.Sequential(nn.BatchNorm1d(4)), {"0": settings}))
        0: BatchNorm1d(4) -> ModeNorm(4, n_components=3, eps=1e-05, momentum=0.1, affine=True)
    """
    chosen: dict[tuple[str, bool], dict[str, dict[str, Any]]] = {}  # one swap for each pair of norm and fusion
    for name, (path, settings) in _layers_recorded(model, recorded).items():
        if not is_known(settings["norm"]):
            raise ValueError(
                f"{path} was swapped for {settings['norm']}, which a file cannot import; import "
                f"{settings['norm'].rpartition('.')[0]} before you load it"
            )
        for argument, text in unsaved(settings).items():
            raise ValueError(
                f"{path} was swapped with {argument}={text}, which a checkpoint cannot hold; swap it with swap_norms "
                "and load the state dict then"
            )
        chosen.setdefault((settings["norm"], settings["fuse_activation"]), {})[name] = settings["arguments"]
    report = SwapReport()
    for (norm, fuse_activation), layers in chosen.items():
        report += swap_chosen(model, layers, norm, fuse_activation)
    return report


def _layers_recorded(model: nn.Module, recorded: Mapping[str, dict[str, Any]]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Map the name of each recorded layer in ``model`` to its name in the record and its settings.

    A layer that stands in several places is recorded under each of its names, and swapped under the first one.
    """
    first_names = {layer: name for name, layer in norm_candidates(model).items()}
    layers = {_without_wrappers(path): layer for path, layer in model.named_modules(remove_duplicate=False)}
    found = {}
    for path, settings in recorded.items():
        layer = layers.get(_without_wrappers(path))
        if layer not in first_names:
            raise ValueError(f"{path} was swapped for {describe(settings)}, but the model has no norm layer there")
        found[first_names[layer]] = path, settings
    return found


def _without_wrappers(path: str) -> str:
    """The name of a layer without what DDP (``module.``) and torch.compile (``_orig_mod.``) add to it."""
    parts = [part for part in path.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[:1] == ["module"] and len(parts) > 1 else parts)
