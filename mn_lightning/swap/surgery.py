"""Replace norm layers in any ``nn.Module``: plan one replacement for each layer, then apply the plan."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.layers.batch_norm import device_and_dtype
from mn_lightning.layers.queue import keep_queues_apart
from mn_lightning.layers.statistics import KeepsStatistics
from mn_lightning.swap.arguments import (
    BatchArguments,
    GroupArguments,
    ModeGroupArguments,
    NoArguments,
    NormName,
    SyncedMixtureArguments,
    SyncedModeArguments,
)
from mn_lightning.swap.candidates import layer_aliases, norm_candidates, other_norms
from mn_lightning.swap.fusion import Fusable, does_nothing, find_activation, fusable_module
from mn_lightning.swap.record import MARK, describe, is_swapped, mark_as_swapped, settings_of
from mn_lightning.swap.registry import check_norm_arguments, norm_arguments, norm_builder
from mn_lightning.swap.report import SwappedLayer, SwapReport
from mn_lightning.swap.selection import LayersFor, LayerSpec, select
from mn_lightning.swap.sources import Source, num_channels, read_source, read_swapped
from mn_lightning.utils.checks import check_momentum

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Replacement(NamedTuple):
    """The plan for one layer. Planning builds the new layer and changes nothing in the model.

    Attributes:
        name: qualified name of the layer.
        source: what the old layer computes.
        new: the layer to put in its place; the old layer itself for norm ``"batch"``, which leaves it there.
        settings: of the swap, in the form in which they are recorded.
        activation: name of the module to take out of the network, because ``new`` holds its activation.
        not_fused: why no activation could be put inside; empty if fusion was not asked for, or succeeded.
        momentum: for the running statistics of a BatchNorm that stays; None leaves its own.
    """

    name: str
    source: Source
    new: nn.Module
    settings: dict[str, Any]
    activation: str | None = None
    not_fused: str = ""
    momentum: float | None = None


FEW_LAYERS = 8
"""MixtureNorm in more layers has to be asked for: each can multiply the variance by its number of components."""

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)
"""Attributes in which torch keeps the hooks that run when a module is called."""


@overload
def swap_norms(
    model: nn.Module,
    layers: LayersFor[SyncedMixtureArguments] | None = ...,
    norm: Literal["mixture"] = ...,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: "Unpack[SyncedMixtureArguments]",
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    layers: LayersFor[SyncedModeArguments] | None = ...,
    norm: Literal["mode"] = ...,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: "Unpack[SyncedModeArguments]",
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    layers: LayersFor[ModeGroupArguments] | None = ...,
    norm: Literal["mode_group"] = ...,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: "Unpack[ModeGroupArguments]",
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    layers: LayersFor[BatchArguments] | None = ...,
    norm: Literal["batch"] = ...,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: "Unpack[BatchArguments]",
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    layers: LayersFor[GroupArguments] | None = ...,
    norm: Literal["group"] = ...,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: "Unpack[GroupArguments]",
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    layers: LayersFor[NoArguments] | None = ...,
    norm: Literal["instance", "layer"] = ...,
    fuse_activation: bool = ...,
    again: bool = ...,
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    layers: LayerSpec | None,
    norm: NormName,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: Any,
) -> SwapReport: ...


@overload
def swap_norms(
    model: nn.Module,
    *,
    norm: NormName,
    fuse_activation: bool = ...,
    again: bool = ...,
    **norm_args: Any,
) -> SwapReport: ...


def swap_norms(
    model: nn.Module,
    layers: LayerSpec | None = None,
    norm: str = "mixture",
    fuse_activation: bool = False,
    again: bool = False,
    **norm_args: Any,
) -> SwapReport:
    """Replace BatchNorm layers of ``model`` in place by another norm.

    Weight and bias (the same parameter objects), running statistics, eps, device, dtype, ``requires_grad`` and training
    flag are carried over; a layer that stands in several places is replaced in all of them by one; torch's random state
    is left alone. Layers that have been swapped with the same settings before are left as they are. After an error the
    model is as it was before.

    Args:
        model: any module that holds BatchNorm1d, 2d, 3d or SyncBatchNorm layers, or layers of other libraries that
            evaluate like them: timm's ``BatchNormAct2d``, whose activation is kept after the norm, and
            ``FrozenBatchNorm2d``, whose weight and bias stay untrained.
        layers: which layers: ``"all"``, ``"first"``, ``"last"``, a name or glob on qualified names, of the layers
            themselves or of modules around them, a list of these, or a mapping from these to arguments for these
            layers. Names may leave out leading parts: ``"conv3"`` finds ``network.conv3.norm``. ``"first:2"`` and
            ``"last:3"`` are the first two and the last three layers; ``"!stem*"`` removes layers from the selection. A
            class of layers selects too, and so does a function of a layer's name and the layer. A network can define
            names of its own, see :func:`layer_aliases`. By default all layers are swapped; for mixture norm in a model
            with more than eight norm layers, ``layers`` has to be given.
        norm: ``"mixture"``, ``"mode"``, ``"mode_group"``, a baseline (``"batch"``, ``"instance"``, ``"layer"``,
            ``"group"``), a name given to :func:`~mn_lightning.swap.registry.register_norm`, or the import path of a
            class, as ``"timm.layers.FilterResponseNormTlu2d"``. Type checkers take the last two as ``NormName("...")``.
        fuse_activation: put the activation that follows a layer inside it (Eq. 38), where there is one.
        again: whether to swap layers again that were swapped with other settings before. The new layers take over
            weight and bias, and begin with the mean and variance of all components or modes together.
        **norm_args: arguments of the norm, such as ``n_components=3``.

    Returns:
        What was replaced; ``print`` it.

    Raises:
        ValueError: a pattern matches nothing, the norm is unknown or does not take an argument, a layer was swapped
            with other settings before (and ``again`` is not given), or a layer computes more than BatchNorm and its own
            modules after it.
        TypeError: ``layers`` is none of the accepted forms.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        >>> print(swap_norms(model, layers="last", norm="mixture", n_components=4))
        3: BatchNorm2d(8) -> MixtureNorm(8, n_components=4, em_iters=2, eps=1e-05)
        >>> print(swap_norms(model, layers={"1": {"n_components": 2}}, norm="mode"))
        1: BatchNorm2d(8) -> ModeNorm(8, n_components=2, eps=1e-05, momentum=0.1, affine=True)
    """
    candidates = norm_candidates(model)
    if not candidates and (others := other_norms(model)):
        raise ValueError(
            f"layers {layers or 'all'!r} matches nothing: the model has no BatchNorm layer to swap; it has {others}: "
            "build it with BatchNorm, which many networks take as an argument (norm, norm_layer)"
        )
    if layers is None and norm == "mixture" and len(candidates) > FEW_LAYERS:
        raise ValueError(
            f"swap_norms got no layers for norm 'mixture'; name them: of the model's {len(candidates)} norm layers "
            "start with one or a few late ones, such as layers='last:2' or layers=['layer4'], or write layers='all'"
        )
    chosen = select("all" if layers is None else layers, candidates, layer_aliases(model))
    arguments = {name: {**norm_args, **layer_args} for name, layer_args in chosen.items()}
    report = swap_chosen(model, arguments, norm, fuse_activation, again)
    _warn_of_growth(model, report)
    return report


def swap_chosen(
    model: nn.Module,
    chosen: Mapping[str, dict[str, Any]],
    norm: str,
    fuse_activation: bool,
    again: bool = False,
) -> SwapReport:
    """Swap the layers that are named in ``chosen``, each with its own arguments.

    Raises:
        ValueError: as :func:`swap_norms`; the model is then as it was before.
    """
    if fuse_activation and "activation" not in (norm_arguments(norm) or {"activation"}):
        raise ValueError(f"norm {norm!r} has no activation to fuse; use fuse_activation with 'mixture'")
    # Building a layer draws random numbers; the rest of the run must not depend on which layers were swapped.
    with torch.random.fork_rng(devices=[]):
        planned = {name: _plan_one(model, name, args, norm, fuse_activation, again) for name, args in chosen.items()}
    plan = [replacement for replacement in planned.values() if replacement is not None]
    report = SwapReport(
        tuple(_line(model.get_submodule(step.name), step) for step in plan),
        tuple(name for name, replacement in planned.items() if replacement is None),
        {step.name: step.not_fused for step in plan if step.not_fused},
    )
    _apply(model, plan)
    return report


def _warn_of_growth(model: nn.Module, report: SwapReport) -> None:
    """After 20 layers that each double the variance, outputs are a thousand times too large."""
    layers = [model.get_submodule(layer.name) for layer in report]
    growing = [layer for layer in layers if isinstance(layer, MixtureNorm) and layer.scale == "sqrt"]
    if len(growing) > FEW_LAYERS:
        warnings.warn(
            f"MixtureNorm is in {len(growing)} layers, each of which multiplies the variance by up to n_components: "
            "a deep network can explode; give scale='unit', or swap fewer layers",
            stacklevel=3,
        )


# --- plan ---------------------------------------------------------------------------------------------------------


def _plan_one(
    model: nn.Module, name: str, arguments: Mapping[str, Any], norm: str, fuse_activation: bool, again: bool
) -> Replacement | None:
    """Plan the replacement of the layer ``name``; None for a layer that was swapped with these settings before."""
    check_norm_arguments(norm, arguments)
    settings = settings_of(norm, arguments, fuse_activation)
    old = model.get_submodule(name)
    if is_swapped(old):
        if getattr(old, MARK) == settings:
            return None
        if not again:
            raise ValueError(
                f"{name} was swapped for {describe(getattr(old, MARK))} before and is now asked to be "
                f"{describe(settings)}; start from a model with BatchNorm there, or call swap_norms with again=True"
            )
    if norm == "batch":
        if is_swapped(old) and not isinstance(old, _BatchNorm):
            raise ValueError(
                f"{name} was swapped for a {type(old).__name__} before, which norm 'batch' does not turn back into "
                "BatchNorm; start from a model with BatchNorm there"
            )
        return Replacement(name, Source(old), old, settings, momentum=_momentum(name, old, **arguments))
    if old is model:
        raise ValueError(f"the model is itself a {type(old).__name__}; put it into an nn.Sequential to swap it")
    source = read_swapped(name, old) if is_swapped(old) else read_source(name, old)
    found: Fusable | str = ""
    if fuse_activation and "activation" not in arguments:
        found = _activation_after(model, name, source)
    activation = {"activation": found.activation} if isinstance(found, Fusable) else {}
    try:
        new = norm_builder(norm)(source.batch_norm, **arguments, **activation)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot swap {name} for norm {norm!r}: {error}") from error
    _carry_over(name, source.batch_norm, new)
    new.train(old.training)
    if isinstance(found, Fusable):
        return Replacement(name, source, new, settings, found.remove)
    return Replacement(name, source, new, settings, not_fused=found)


def _momentum(name: str, layer: nn.Module, momentum: float | None = None) -> float | None:
    """Check the momentum that a BatchNorm will be given."""
    check_momentum(name, momentum)
    if momentum is not None and not hasattr(layer, "momentum"):
        raise ValueError(f"{name} is a {type(layer).__name__}, whose statistics stay as they are; leave out momentum")
    return momentum


def _activation_after(model: nn.Module, name: str, source: Source) -> Fusable | str:
    """The activation that comes first after the norm: in the layer's own modules, or in those around it."""
    layer = model.get_submodule(name)
    for child in source.after:
        module = layer.get_submodule(child)
        if not does_nothing(module):
            return fusable_module(module, f"{name}.{child}")
    return find_activation(model, name)


def _carry_over(name: str, old: Any, new: Any) -> None:
    """Give the new layer what every norm takes over: device, dtype, weight and bias."""
    new.to(**device_and_dtype(old))
    affine = {key: getattr(old, key) for key in ("weight", "bias") if getattr(old, key) is not None}
    # A layer that was frozen stays frozen. Without an affine map there is nothing to tell that by.
    new.requires_grad_(not affine or any(value.requires_grad for value in affine.values()))
    if isinstance(new, KeepsStatistics) and old.running_mean is not None:
        new.track_running_stats = old.track_running_stats
    if all(_same_shape(getattr(new, key, None), parameter) for key, parameter in affine.items()):
        # The same objects, not copies: requires_grad, tied weights and an optimizer's references stay as they are.
        for key in ("weight", "bias") if affine else ():
            setattr(new, key, affine.get(key))
    elif not _is_identity(affine):
        warnings.warn(
            f"{name}: {_text(new)} cannot take over BatchNorm's weight and bias; its affine map starts from the "
            "identity",
            stacklevel=5,
        )
    if old.running_mean is None and any(True for _ in new.buffers()):
        warnings.warn(
            f"{name}: BatchNorm keeps no running statistics there (track_running_stats=False) and evaluates with each "
            f"batch's; {type(new).__name__} evaluates with statistics of its training",
            stacklevel=5,
        )


def _same_shape(slot: Any, parameter: Tensor) -> bool:
    return isinstance(slot, nn.Parameter) and slot.shape == parameter.shape


@torch.no_grad()
def _is_identity(affine: Mapping[str, Tensor]) -> bool:
    return all(bool((value == (1 if key == "weight" else 0)).all()) for key, value in affine.items())


# --- apply --------------------------------------------------------------------------------------------------------


def _apply(model: nn.Module, plan: Sequence[Replacement]) -> None:
    """Put the new layers wherever the old ones stand, and take out the activations that they now hold."""
    new_layers = {model.get_submodule(step.name): step.new for step in plan}
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):
            if child in new_layers:
                parent._modules[attribute] = new_layers[child]
    _warn_of_other_holders(model, {old for old, new in new_layers.items() if new is not old})
    for old, step in zip(new_layers, plan, strict=True):
        mark_as_swapped(step.new, step.settings, replaced=step.new is not old)
        if isinstance(step.new, (MixtureNorm, ModeNorm, ModeGroupNorm)):
            step.new.label += f" at {step.name}"
        if step.momentum is not None:
            old.momentum = step.momentum  # type: ignore[assignment]
        if step.new is not old:
            _share_hooks(old, step.new)
            _keep_what_follows(step.new, {child: old.get_submodule(child) for child in step.source.after})
        if step.activation is not None:
            model.set_submodule(step.activation, nn.Identity())
    keep_queues_apart(model)


def _warn_of_other_holders(model: nn.Module, replaced: set[nn.Module]) -> None:
    """Name plain lists that still hold an old layer: torch does not see into them, so nothing is swapped there."""
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            held = list(value.values()) if isinstance(value, dict) else value
            if attribute.startswith("_") or not isinstance(held, (list, tuple)):
                continue
            if any(isinstance(one, nn.Module) and one in replaced for one in held):
                warnings.warn(
                    f"{path + '.' if path else ''}{attribute} of {type(module).__name__} is a plain list or dict "
                    "that still holds layers from before the swap: if the forward uses them, swap the layers before "
                    "it is made, or make it an nn.ModuleList",
                    stacklevel=4,
                )


def _share_hooks(old: nn.Module, new: nn.Module) -> None:
    """Make a user's hooks on the old layer run on the new one; their handles still remove them."""
    new._is_full_backward_hook = old._is_full_backward_hook
    for name in _HOOKS:
        hooks = getattr(old, name)
        for key in [key for key, hook in hooks.items() if _is_of_a_swap(hook)]:
            del hooks[key]  # the new layer has its own hooks
        hooks.update(getattr(new, name))
        setattr(new, name, hooks)


def _is_of_a_swap(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("mn_lightning.swap")


def _keep_what_follows(layer: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Send the norm's output through the modules that the old layer held, under the same names."""
    for name, module in modules.items():
        layer.add_module(name, module)
    if modules:
        layer._after_norm = tuple(modules)  # type: ignore[assignment]
        layer.register_forward_hook(_through_what_follows, prepend=True)


def _through_what_follows(layer: Any, inputs: Any, output: Any) -> Any:
    if isinstance(output, fx.Proxy):
        return output  # the node calls the layer, which runs this hook
    for name in layer._after_norm:
        output = layer.get_submodule(name)(output)
    return output


# --- for the report -----------------------------------------------------------------------------------------------


def _line(old: nn.Module, step: Replacement) -> SwappedLayer:
    channels = num_channels(step.source.batch_norm)
    before = f"{type(old).__name__}({channels})"
    after = before if step.momentum is None else f"{type(old).__name__}({channels}, momentum={step.momentum})"
    return SwappedLayer(step.name, before, after if step.new is old else _text(step.new), (channels,))


def _text(layer: Any) -> str:
    return f"{type(layer).__name__}({layer.extra_repr()})"
