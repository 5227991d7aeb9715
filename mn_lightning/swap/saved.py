"""Swap the layers of a model again, as a state dict or a checkpoint says that they were."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mn_lightning.swap.record import MARK, describe, recorded_settings, unsaved
from mn_lightning.swap.surgery import SwapReport, norm_candidates, swap_chosen


def swap_settings(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Qualified name of each swapped layer of ``model`` to the settings of the swap, in plain types.

    Examples:
        >>> model = nn.Sequential(nn.BatchNorm1d(4))
        >>> _ = swap_norms(model, norm="mixture", n_components=2)
        >>> swap_settings(model)
        {'0': {'norm': 'mixture', 'arguments': {'n_components': 2}, 'fuse_activation': False}}
    """
    return {name: getattr(layer, MARK) for name, layer in model.named_modules() if hasattr(layer, MARK)}


def swap_as_saved(model: nn.Module, state_dict: Mapping[str, Any]) -> SwapReport:
    """Swap the layers of ``model`` that had been swapped when ``state_dict`` was taken, with the same settings.

    ``model.load_state_dict(state_dict)`` then finds the layers that it needs. Settings are read from the metadata
    that a module's ``state_dict()`` carries, also through ``torch.save`` and ``torch.load(..., weights_only=True)``.

    Args:
        model: as it was before its layers were swapped.
        state_dict: what ``model.state_dict()`` returned after that.

    Returns:
        What was replaced.

    Raises:
        ValueError: ``state_dict`` has no record of a swap; the model has no such layer; a setting that cannot be
            saved, as an ``activation`` that was given as a function.

    Examples:
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
    """Swap the layers with the names ``recorded``, with the settings that :func:`swap_settings` has returned.

    Args:
        model: as it was before its layers were swapped.
        recorded: qualified name to settings.

    Returns:
        What was replaced.

    Raises:
        ValueError: the model has no such layer; a setting that could not be saved.

    Examples:
        >>> settings = {"norm": "mode", "arguments": {"n_components": 3}, "fuse_activation": False}
        >>> print(swap_as_recorded(nn.Sequential(nn.BatchNorm1d(4)), {"0": settings}))
        0: BatchNorm1d(4) -> ModeNorm(4, n_components=3, eps=1e-05, momentum=0.1, affine=True)
    """
    candidates = norm_candidates(model)
    first_names = {layer: name for name, layer in candidates.items()}
    shared = {path: first_names.get(layer) for path, layer in model.named_modules(remove_duplicate=False)}
    groups: dict[tuple[str, bool], dict[str, dict[str, Any]]] = {}
    for path, settings in recorded.items():
        name = shared.get(path)
        if name is None:
            raise ValueError(f"{path} was swapped for {describe(settings)}, but the model has no norm layer there")
        for argument, text in unsaved(settings).items():
            raise ValueError(
                f"{path} was swapped with {argument}={text}, which a checkpoint cannot hold; swap it with swap_norms "
                "and load the state dict then"
            )
        groups.setdefault((settings["norm"], settings["fuse_activation"]), {})[name] = settings["arguments"]
    reports = [swap_chosen(model, chosen, norm, fuse) for (norm, fuse), chosen in groups.items()]
    return SwapReport(
        tuple(layer for report in reports for layer in report),
        tuple(name for report in reports for name in report.unchanged),
        {name: reason for report in reports for name, reason in report.not_fused.items()},
    )
