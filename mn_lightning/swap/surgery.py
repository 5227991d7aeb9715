"""Replace norm layers in any ``nn.Module``: plan one replacement for each layer, then apply the plan."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mn_lightning.layers.batch_norm import device_and_dtype
from mn_lightning.layers.queue import BatchQueue
from mn_lightning.swap.candidates import layer_aliases, norm_candidates
from mn_lightning.swap.fusion import Fusable, find_activation
from mn_lightning.swap.record import MARK, describe, is_swapped, mark_as_swapped, settings_of
from mn_lightning.swap.registry import check_norm_arguments, norm_arguments, norm_builder
from mn_lightning.swap.report import SwappedLayer, SwapReport
from mn_lightning.swap.selection import LayerSpec, select


class Replacement(NamedTuple):
    """What will be done at one layer; planning has built the new layer, and changed nothing.

    Attributes:
        name: qualified name of the layer.
        old: the layer.
        new: the one for its place; ``old`` itself for the norm that leaves it there.
        settings: of the swap, as they are recorded.
        activation: name of the module to take out, because its activation is inside ``new`` now.
        not_fused: why no activation could be put inside; empty if none was asked for, or one was.
    """

    name: str
    old: nn.Module
    new: nn.Module
    settings: dict[str, Any]
    activation: str | None
    not_fused: str


def swap_norms(
    model: nn.Module,
    layers: LayerSpec = "all",
    norm: str = "mixture",
    fuse_activation: bool = False,
    **norm_args: Any,
) -> SwapReport:
    """Replace BatchNorm layers of ``model`` in place by another norm.

    Weight and bias (the same parameter objects), running statistics, eps, device, dtype, ``requires_grad`` and
    training flag are carried over; a layer that stands in several places is replaced in all of them by one; torch's
    random state is left alone. Layers that have been swapped with the same settings before are left as they are. In
    case of an error the model is as it was.

    Args:
        model: any module that holds BatchNorm1d, 2d, 3d or SyncBatchNorm layers.
        layers: which: ``"all"``, ``"first"``, ``"last"``, a name or glob on qualified names, of the layers themselves
            or of modules around them, a list of these, or a mapping from these to arguments for these layers. Names
            may leave out leading parts: ``"conv3"`` finds ``network.conv3.norm``. A network can define names of its
            own, see :func:`layer_aliases`.
        norm: ``"mixture"``, ``"mode"``, ``"mode_group"``, a baseline (``"batch"``, ``"instance"``, ``"layer"``,
            ``"group"``), or a name given to :func:`~mn_lightning.swap.registry.register_norm`.
        fuse_activation: put the activation that follows each layer inside it (Eq. 38), where there is one.
        **norm_args: arguments of the norm, as ``n_components=3``.

    Returns:
        What was replaced; ``print`` it.

    Raises:
        ValueError: a pattern that matches nothing, an unknown norm, an argument that the norm does not take, a layer
            that was swapped with other settings before, or one that computes more than BatchNorm.
        TypeError: ``layers`` is none of the accepted forms.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        >>> print(swap_norms(model, layers="last", norm="mixture", n_components=4))
        3: BatchNorm2d(8) -> MixtureNorm(8, n_components=4, em_iters=2, eps=1e-05)
        >>> print(swap_norms(model, layers={"1": {"n_components": 2}}, norm="mode"))
        1: BatchNorm2d(8) -> ModeNorm(8, n_components=2, eps=1e-05, momentum=0.1, affine=True)
    """
    chosen = select(layers, list(norm_candidates(model)), layer_aliases(model))
    arguments = {name: {**norm_args, **layer_args} for name, layer_args in chosen.items()}
    return swap_chosen(model, arguments, norm, fuse_activation)


def swap_chosen(model: nn.Module, chosen: Mapping[str, dict[str, Any]], norm: str, fuse_activation: bool) -> SwapReport:
    """Swap the layers with the names ``chosen``, each with arguments of its own.

    Raises:
        ValueError: as :func:`swap_norms`; the model is as it was.
    """
    if fuse_activation and "activation" not in (norm_arguments(norm) or {"activation"}):
        raise ValueError(f"norm {norm!r} has no activation to fuse; use fuse_activation with 'mixture'")
    # Building a layer draws random numbers; the rest of the run must not depend on which layers were swapped.
    with torch.random.fork_rng(devices=[]):
        planned = {name: _plan_one(model, name, args, norm, fuse_activation) for name, args in chosen.items()}
    plan = [replacement for replacement in planned.values() if replacement is not None]
    _apply(model, plan)
    return SwapReport(
        tuple(SwappedLayer(step.name, _text(step.old), _text(step.new), _shape(step.old)) for step in plan),
        tuple(name for name, replacement in planned.items() if replacement is None),
        {step.name: step.not_fused for step in plan if step.not_fused},
    )


# --- plan ---------------------------------------------------------------------------------------------------------


def _plan_one(
    model: nn.Module, name: str, arguments: Mapping[str, Any], norm: str, fuse_activation: bool
) -> Replacement | None:
    """Build what replaces the layer ``name``; None for a layer that was swapped with these settings before."""
    check_norm_arguments(norm, arguments)
    settings = settings_of(norm, arguments, fuse_activation)
    old = model.get_submodule(name)
    if is_swapped(old):
        _check_same_settings(name, getattr(old, MARK), settings)
        return None
    _check_swappable(name, old, model)
    found: Fusable | str = ""
    if fuse_activation and "activation" not in arguments:
        found = find_activation(model, name)
    activation = {"activation": found.activation} if isinstance(found, Fusable) else {}
    try:
        new = norm_builder(norm)(old, **arguments, **activation)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot swap {name} for norm {norm!r}: {error}") from error
    if new is not old:
        _carry_over(name, old, new)
    if isinstance(found, Fusable):
        return Replacement(name, old, new, settings, found.remove, not_fused="")
    return Replacement(name, old, new, settings, None, not_fused=found)


def _check_same_settings(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    if before != now:
        raise ValueError(
            f"{name} was swapped for {describe(before)} before and is now asked to be {describe(now)}; start from a "
            "model with BatchNorm there"
        )


def _check_swappable(name: str, layer: nn.Module, model: nn.Module) -> None:
    if layer is model:
        raise ValueError(f"the model is itself a {type(layer).__name__}; put it into an nn.Sequential to swap it")
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        raise ValueError(f"{name} is a {type(layer).__name__} of unknown size; run one batch through the model first")
    if type(layer).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        raise ValueError(
            f"{name} is a {type(layer).__name__}, which computes more than BatchNorm; "
            f"only BatchNorm1d, BatchNorm2d, BatchNorm3d and SyncBatchNorm can be swapped"
        )


def _carry_over(name: str, old: Any, new: Any) -> None:
    """Give the new layer what every norm takes over: device, dtype, training flag, and weight and bias."""
    new.to(**device_and_dtype(old))
    new.train(old.training)
    if old.weight is None:
        return
    weight = getattr(new, "weight", None)
    if isinstance(weight, nn.Parameter) and weight.shape == old.weight.shape:
        # The same objects, not copies: requires_grad, ties and an optimizer's references stay as they are.
        new.weight = old.weight
        new.bias = old.bias
    elif not _is_identity(old):
        warnings.warn(
            f"{name}: {_text(new)} cannot take over BatchNorm's weight and bias; its affine map starts from the "
            "identity",
            stacklevel=5,
        )


def _is_identity(layer: Any) -> bool:
    with torch.no_grad():
        return bool((layer.weight == 1).all() and (layer.bias is None or (layer.bias == 0).all()))


# --- apply --------------------------------------------------------------------------------------------------------


def _apply(model: nn.Module, plan: Iterable[Replacement]) -> None:
    """Put the new layers in, wherever the old ones stand, and take out the activations that went inside them."""
    new_layers = {step.old: step.new for step in plan}
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):
            if child in new_layers:
                parent._modules[attribute] = new_layers[child]
    for step in plan:
        mark_as_swapped(step.new, step.settings, replaced=step.new is not step.old)
        if step.activation is not None:
            model.set_submodule(step.activation, nn.Identity())
    _keep_queues_apart(model)


def _keep_queues_apart(model: nn.Module) -> None:
    """Tell DDP to leave the queues alone: it would overwrite each process' own with the first one's in every step."""
    queues = [name for name, module in model.named_modules() if isinstance(module, BatchQueue)]
    buffers = [f"{name}.{buffer}" for name in queues for buffer, _ in model.get_submodule(name).named_buffers()]
    if buffers:
        ignored = dict.fromkeys([*getattr(model, "_ddp_params_and_buffers_to_ignore", ()), *buffers])
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            model, list(ignored)
        )


# --- for the report -----------------------------------------------------------------------------------------------


def _text(layer: Any) -> str:
    settings = layer.num_features if isinstance(layer, _BatchNorm) else layer.extra_repr()
    return f"{type(layer).__name__}({settings})"


def _shape(batch_norm: Any) -> tuple[int, ...]:
    return (batch_norm.num_features,)
