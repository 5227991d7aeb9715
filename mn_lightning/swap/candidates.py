"""Find the layers of a model that can be swapped, and the names that stand for them."""

from collections import Counter

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning.swap.record import is_swapped
from mn_lightning.swap.sources import is_frozen_batch_norm


def norm_candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Layers of ``model`` that can be swapped or have been swapped, by their first qualified name.

    Layers inside a ``torchmetrics.Metric`` are left out: that network only measures.

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
    """Name the norm layers of ``model`` that cannot be swapped, as ``GroupNorm (12), LayerNorm (2)``."""
    candidates = set(norm_candidates(model).values())
    kinds = (type(module).__name__ for module in model.modules() if module not in candidates)
    counts = Counter(kind for kind in kinds if "norm" in kind.lower())
    return ", ".join(f"{kind} ({count})" for kind, count in counts.items())


def _is_metric(module: nn.Module) -> bool:
    """Whether it is a ``torchmetrics.Metric``; told by the class's name, because swaps must not import torchmetrics."""
    return any(
        kind.__name__ == "Metric" and kind.__module__.startswith("torchmetrics.") for kind in type(module).__mro__
    )


def layer_aliases(model: nn.Module) -> dict[str, list[str]]:
    """Names that stand for norm layers of ``model``: qualified alias to the layers' qualified names.

    A network defines aliases for its own layers as ``layer_aliases``, a mapping from alias to qualified names inside
    the network. With ``layer_aliases = {"stem": ["conv1.bn", "conv2.bn"]}``, you can write ``stem`` under ``layers``,
    or ``network.stem`` where the network is ``network`` of a LightningModule. Names of layers that the network does not
    have, because a user removed them, are ignored.

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
