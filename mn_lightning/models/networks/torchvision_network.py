"""torchvision's networks by name."""

import difflib
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

# Both return several outputs in training and warn of a change of their default initialization.
_WITH_AUXILIARY_CLASSIFIERS = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}


class TorchvisionNetwork(nn.Module):
    """Any classification network of torchvision, by name.

    ``resnet18`` is the one that Deecke et al. (arXiv:1810.05466) train on ImageNet in Table 4. The network takes RGB
    images as large as torchvision's documentation says ("min_size"); resnet takes any size. Auxiliary classifiers are
    left out, so that training and evaluation return the same.

    Args:
        name: one of those that ``torchvision.models.list_models(module=torchvision.models)`` lists.
        num_classes: outputs of the last layer.
        weights: name of weights to start from, such as ``"IMAGENET1K_V1"`` or ``"DEFAULT"``, which torchvision
            downloads. If they are for another number of classes, the last layer is a new one.

    Raises:
        ValueError: ``name`` or ``weights`` is unknown.
    """

    def __init__(self, name: str, num_classes: int = 1000, weights: str | None = None) -> None:
        super().__init__()
        known = list_models(module=torchvision.models)
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"TorchvisionNetwork got name={name!r}; the nearest of torchvision's classification networks is "
                f"{nearest!r}, torchvision.models.list_models(module=torchvision.models) lists all"
            )
        members = get_model_weights(name).__members__
        if weights is not None and weights not in members:
            raise ValueError(
                f"TorchvisionNetwork got weights={weights!r}; for {name} it takes None or one of {', '.join(members)}"
            )
        self.name = name
        self.smallest = min(min(entry.meta["min_size"]) for entry in members.values())
        self.network = _with_weights(name, num_classes, weights) if weights else _from_scratch(name, num_classes)

    @property
    def example_input_array(self) -> Tensor:
        """Zeros of ImageNet's size, from which Lightning derives the sizes in its model summary."""
        size = max(224, self.smallest)
        return torch.zeros(2, 3, size, size)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            images: ``(N, 3, H, W)``.

        Returns:
            Logits of shape ``(N, num_classes)``.

        Raises:
            ValueError: if ``images`` has another shape.
        """
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < self.smallest:
            raise ValueError(
                f"TorchvisionNetwork({self.name!r}) got input of shape {tuple(images.shape)}; it takes (N, 3, H, W) "
                f"with H and W >= {self.smallest}, resize the images or repeat the channel of grayscale images"
            )
        logits: Tensor = self.network(images)
        return logits


def _from_scratch(name: str, num_classes: int) -> nn.Module:
    initialize = {"init_weights": True} if name in _WITH_AUXILIARY_CLASSIFIERS else {}
    network: nn.Module = get_model(name, num_classes=num_classes, **initialize)
    return _without_auxiliary(network, name)


def _with_weights(name: str, num_classes: int, weights: str) -> nn.Module:
    network = _without_auxiliary(get_model(name, weights=weights), name)
    trained_for = len(get_model_weights(name)[weights].meta["categories"])
    if num_classes != trained_for:
        _replace_last_layer(network, trained_for, num_classes)
    return network


def _without_auxiliary(network: Any, name: str) -> nn.Module:
    for classifier in _WITH_AUXILIARY_CLASSIFIERS.get(name, ()):
        setattr(network, classifier, None)
        network.aux_logits = False
    module: nn.Module = network
    return module


def _replace_last_layer(network: nn.Module, old_classes: int, new_classes: int) -> None:
    """Put a new layer in place of the last one that has ``old_classes`` outputs."""
    *_, (path, last) = (
        (path, module)
        for path, module in network.named_modules()
        if old_classes in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    )
    new: nn.Module
    if isinstance(last, nn.Conv2d):  # squeezenet's classifier
        new = nn.Conv2d(last.in_channels, new_classes, kernel_size=1)
    else:
        assert isinstance(last, nn.Linear)
        new = nn.Linear(last.in_features, new_classes, bias=last.bias is not None)
    network.set_submodule(path, new)
