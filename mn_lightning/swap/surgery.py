"""Replace BatchNorm layers in any ``nn.Module``."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mn_lightning.layers.batch_norm import placement
from mn_lightning.layers.queue import BatchQueue
from mn_lightning.swap.fusion import Fusable, find_activation
from mn_lightning.swap.record import MARK, describe, record_settings, settings_of
from mn_lightning.swap.registry import check_norm_arguments, norm_arguments, norm_builder
from mn_lightning.swap.selection import LayerSpec, select


class SwappedLayer(NamedTuple):
    """One line of a :class:`SwapReport`: qualified name, old and new layer as text, shape ``(C,)`` of the weight.

    Attributes:
        name: qualified name in the model.
        old: as ``BatchNorm2d(64)``.
        new: as ``MixtureNorm(64, n_components=3, em_iters=2, eps=1e-05)``.
        shape: ``(C,)``.

    Examples:
        >>> [layer] = swap_norms(nn.Sequential(nn.BatchNorm1d(4)), norm="mode")
        >>> layer.name, layer.old, layer.shape
        ('0', 'BatchNorm1d(4)', (4,))
    """

    name: str
    old: str
    new: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SwapReport:
    """What :func:`swap_norms` did.

    Attributes:
        layers: the layers replaced, in the model's order.
        unchanged: names of layers that had been swapped before.
        not_fused: name to the reason why no activation could be fused, if that was asked for.

    Examples:
        >>> report = swap_norms(nn.Sequential(nn.BatchNorm1d(4)), norm="mode_group")
        >>> print(report)
        0: BatchNorm1d(4) -> ModeGroupNorm(4, n_components=2, eps=1e-05, affine=True)
        >>> len(report), report.unchanged
        (1, ())
    """

    layers: tuple[SwappedLayer, ...] = ()
    unchanged: tuple[str, ...] = ()
    not_fused: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[SwappedLayer]:
        return iter(self.layers)

    def __str__(self) -> str:
        lines = [f"{layer.name}: {layer.old} -> {layer.new}" for layer in self.layers]
        return "\n".join([*lines, *self.notes]) or "no layer swapped"

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each activation that could not be fused."""
        return tuple(f"{name}: activation not fused, {reason}" for name, reason in self.not_fused.items())


def norm_candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Layers of ``model`` that can be swapped or have been, by their first qualified name.

    Examples:
        >>> list(norm_candidates(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))))
        ['1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) or hasattr(module, MARK)
    }


def layer_aliases(model: nn.Module) -> dict[str, list[str]]:
    """Names that stand for norm layers of ``model``: qualified alias to the layers' qualified names.

    A network defines them for those inside it as ``layer_aliases``, a mapping from alias to qualified names relative to
    the network: with ``layer_aliases = {"stem": ["conv1.bn", "conv2.bn"]}``, ``stem`` and, where the network is
    ``network`` of a LightningModule, ``network.stem`` can be written under ``layers``. Layers that a network
    does not have, because a user took them out, are passed over.

    Examples:
        >>> class Network(nn.Sequential):
        ...     layer_aliases = {"stem": ["0", "2"]}
        >>> network = Network(nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
        >>> layer_aliases(nn.ModuleDict({"network": network}))
        {'network.stem': ['network.0', 'network.2']}
    """
    names = {layer: name for name, layer in norm_candidates(model).items()}
    aliases: dict[str, list[str]] = {}
    for path, network in model.named_modules():
        defined = getattr(network, "layer_aliases", None) or {}
        inside = dict(network.named_modules(remove_duplicate=False)) if defined else {}
        for alias, members in defined.items():
            found = [names[layer] for layer in map(inside.get, members) if layer in names]
            if found:
                aliases[f"{path}.{alias}".lstrip(".")] = found
    return aliases


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
    return swap_chosen(
        model, {name: {**norm_args, **layer_args} for name, layer_args in chosen.items()}, norm, fuse_activation
    )


def swap_chosen(model: nn.Module, chosen: Mapping[str, dict[str, Any]], norm: str, fuse_activation: bool) -> SwapReport:
    """Swap the layers with the names ``chosen``, each with arguments of its own."""
    builder = norm_builder(norm)
    if fuse_activation and "activation" not in (norm_arguments(norm) or {"activation"}):
        raise ValueError(f"norm {norm!r} has no activation to fuse; use fuse_activation with 'mixture'")
    candidates = norm_candidates(model)
    plan: dict[nn.Module, nn.Module] = {}
    removals: list[str] = []
    swapped: list[SwappedLayer] = []
    unchanged: list[str] = []
    not_fused: dict[str, str] = {}
    # Building a layer draws random numbers; the rest of the run must not depend on which layers were swapped.
    with torch.random.fork_rng(devices=[]):
        for name, given in chosen.items():
            old = candidates[name]
            arguments = dict(given)
            check_norm_arguments(norm, arguments)
            mark = settings_of(norm, arguments, fuse_activation)
            if hasattr(old, MARK):
                if getattr(old, MARK) != mark:
                    raise ValueError(
                        f"{name} was swapped for {describe(getattr(old, MARK))} before and is now asked to be "
                        f"{describe(mark)}; start from a model with BatchNorm there"
                    )
                unchanged.append(name)
                continue
            _check_swappable(name, old, model)
            if fuse_activation and "activation" not in arguments:
                found = find_activation(model, name)
                if isinstance(found, Fusable):
                    arguments["activation"] = found.activation
                    removals += [found.remove] if found.remove else []
                else:
                    not_fused[name] = found
            try:
                new = builder(old, **arguments)
            except (TypeError, ValueError) as error:
                raise ValueError(f"cannot swap {name} for norm {norm!r}: {error}") from error
            swapped.append(SwappedLayer(name, _describe(old), _describe(new), _shape(old)))
            _carry_over(name, old, new)
            setattr(new, MARK, mark)
            new.register_state_dict_post_hook(record_settings)  # type: ignore[no-untyped-call]
            plan[old] = new
    _replace(model, plan)
    _keep_queues_apart(model)
    for path in removals:
        model.set_submodule(path, nn.Identity())
    return SwapReport(tuple(swapped), tuple(unchanged), not_fused)


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
    if new is old:
        return
    new.to(**placement(old))
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
            f"{name}: {_describe(new)} cannot take over BatchNorm's weight and bias; its affine map starts from the "
            "identity",
            stacklevel=3,
        )


def _is_identity(layer: Any) -> bool:
    with torch.no_grad():
        return bool((layer.weight == 1).all() and (layer.bias is None or (layer.bias == 0).all()))


def _replace(model: nn.Module, plan: dict[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        for attribute, child in list(parent._modules.items()):
            if child in plan:
                parent._modules[attribute] = plan[child]


def _describe(layer: Any) -> str:
    settings = layer.num_features if isinstance(layer, _BatchNorm) else layer.extra_repr()
    return f"{type(layer).__name__}({settings})"


def _shape(batch_norm: Any) -> tuple[int, ...]:
    return (batch_norm.num_features,)


def _keep_queues_apart(model: nn.Module) -> None:
    """Tell DDP to leave the queues alone: it would overwrite each process' own with the first one's in every step."""
    queues = [name for name, module in model.named_modules() if isinstance(module, BatchQueue)]
    buffers = [f"{name}.{buffer}" for name in queues for buffer, _ in model.get_submodule(name).named_buffers()]
    if buffers:
        ignored = dict.fromkeys([*getattr(model, "_ddp_params_and_buffers_to_ignore", ()), *buffers])
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            model, list(ignored)
        )
