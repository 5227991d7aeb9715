"""Keep the inputs of MixtureNorm and ModeNorm layers while a model is evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mn_lightning.analysis.gates import gates
from mn_lightning.analysis.mixtures import posteriors
from mn_lightning.functional.rows import upcast
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.layers import MixtureNorm, ModeNorm
from mn_lightning.swap.candidates import layer_aliases
from mn_lightning.swap.selection import select

MAX_BYTES = 16 * 2**20
"""Bytes that are kept of each layer's input: tens of thousands of values for each channel, 1 GB for 64 layers."""


@dataclass
class Recorded:
    """The input of one layer.

    Attributes:
        layer: the layer, in the checkpoint's state.
        posteriors: of every sample, ``(N, K)``: the gates of a ModeNorm; the posteriors of a MixtureNorm, as means over
            an image's positions. Empty if each channel has a mixture of its own, whose components are unrelated, and if
            the layer is not called once for each batch.
        input: of the first samples, ``(n, C, *)``.
    """

    layer: MixtureNorm | ModeNorm
    posteriors: Tensor
    input: Tensor


@dataclass
class _Parts:
    posteriors: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    bytes: int = 0


class Recorder:
    """Keep the inputs of layers until enough samples have passed.

    Args:
        layers: by name.
        samples: how many.

    Attributes:
        seen: how many samples have passed.
    """

    def __init__(self, layers: dict[str, MixtureNorm | ModeNorm], samples: int) -> None:
        self.samples = samples
        self.seen = 0
        self._layers = layers
        self._images: list[Tensor] = []
        self._parts = {name: _Parts() for name in layers}
        self._called: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record the inputs of the layers within the context."""
        handles = [layer.register_forward_pre_hook(self._hook(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin_batch(self) -> None:
        """Prepare for the next call of each layer. Further calls of a layer with the same batch are not recorded."""
        self._called.clear()

    def end_batch(self, samples: int, images: Tensor | None) -> None:
        """Count a batch.

        Args:
            samples: number of samples in it.
            images: the samples, ``(n, C, H, W)``; None if they are not images.
        """
        self.seen += samples
        if images is not None:
            self._images.append(images.detach().float().cpu())

    @property
    def images(self) -> Tensor:
        """The samples, ``(N, C, H, W)``; empty if they are not images of one size."""
        sizes = {image.shape[1:] for image in self._images}
        return torch.cat(self._images) if len(sizes) == 1 else torch.empty(0)

    def recorded(self) -> dict[str, Recorded]:
        """Return the records of the layers that were called, by name."""
        found = {}
        for name, parts in self._parts.items():
            if parts.inputs:
                nu = torch.cat(parts.posteriors) if parts.posteriors else torch.empty(0)
                one_each = len(nu) == len(self.images)
                found[name] = Recorded(self._layers[name], nu if one_each else torch.empty(0), torch.cat(parts.inputs))
        return found

    def _hook(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            if name in self._called:  # a layer that stands in several places is recorded in the first
                return
            self._called.add(name)
            parts, input = self._parts[name], args[0].detach()
            nu = _posteriors(input, layer)
            if nu is not None:
                parts.posteriors.append(nu.float().cpu())
            left = (MAX_BYTES - parts.bytes) // (4 * input[0].numel())
            if left > 0 or not parts.inputs:
                parts.inputs.append(upcast(input[: max(1, left)]).cpu())
                parts.bytes += 4 * parts.inputs[-1].numel()

        return hook


def choose_layers(model: nn.Module, pattern: str | None) -> dict[str, MixtureNorm | ModeNorm]:
    """Return the layers that can be inspected, by name.

    Args:
        model: the model with the layers.
        pattern: which layers, as in :func:`~mn_lightning.swap.swap_norms`; None for all.

    Raises:
        InspectionError: there are no such layers, or ``pattern`` selects none of them.
    """
    there = {name: layer for name, layer in model.named_modules() if isinstance(layer, (MixtureNorm, ModeNorm))}
    if not there:
        raise InspectionError(
            f"neither the checkpoint nor {type(model).__name__} has a MixtureNorm or ModeNorm; give a checkpoint that "
            "was trained with one"
        )
    if pattern is None:
        return there
    names = list(there)
    aliases = {alias: [name for name in members if name in there] for alias, members in layer_aliases(model).items()}
    try:
        return {name: there[name] for name in select(pattern, there, aliases)}
    except ValueError as error:
        raise InspectionError(
            f"layer {pattern!r} is not among the swapped layers; these are {', '.join(names)}"
        ) from error


def _posteriors(input: Tensor, layer: nn.Module) -> Tensor | None:
    if isinstance(layer, ModeNorm):
        return gates(input, layer)
    assert isinstance(layer, MixtureNorm)
    if layer.granularity == "channel":
        return None
    found = posteriors(input, layer.mixture, layer.eps)
    return found.reshape(*found.shape[:2], -1).mean(2)
