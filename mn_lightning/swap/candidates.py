"""Which layers of a model can be swapped, and which names stand for them."""

from collections import Counter

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.swap.record import is_swapped
from mn_lightning.swap.sources import is_frozen_batch_norm


def norm_candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Layers of ``model`` that can be swapped or have been, by their first qualified name.

    The layers of a network that only measures, inside a ``torchmetrics.Metric``, are not among them.

    Examples:
        >>> list(norm_candidates(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))))
        ['1']
    """
    measuring = {inner for module in model.modules() if _is_metric(module) for inner in module.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, _BatchNorm) or is_frozen_batch_norm(module) or is_swapped(module))
        and module not in measuring
    }


def other_norms(model: nn.Module) -> str:
    """Name the norm layers of ``model`` that cannot be swapped: ``GroupNorm (12), LayerNorm (2)``; empty if none."""
    candidates = set(norm_candidates(model).values())
    kinds = (type(module).__name__ for module in model.modules() if module not in candidates)
    counts = Counter(kind for kind in kinds if "norm" in kind.lower())
    return ", ".join(f"{kind} ({count})" for kind, count in counts.items())


def _is_metric(module: nn.Module) -> bool:
    """Whether it is a ``torchmetrics.Metric``, found by name: this package's swaps need torch alone."""
    return any(
        kind.__name__ == "Metric" and kind.__module__.startswith("torchmetrics.") for kind in type(module).__mro__
    )


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
