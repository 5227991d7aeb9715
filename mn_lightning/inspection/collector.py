"""What layers are given, and what they make of it, while a Trainer evaluates."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mn_lightning.analysis.mixtures import gates, posteriors
from mn_lightning.functional.rows import upcast
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.layers import MixtureNorm, ModeNorm
from mn_lightning.swap.candidates import layer_aliases
from mn_lightning.swap.selection import select

MAX_BYTES = 16 * 2**20
"""Of one layer's input that is kept: tens of thousands of values for each channel, and a gigabyte for 64 layers."""

SAMPLES_AT_A_TIME = 64


@dataclass
class Collected:
    """What one layer was given.

    Attributes:
        layer: in the checkpoint's state.
        claims: gates, or mean posteriors, of every image, ``(N, K)``; empty for mixtures of single channels, whose
            components have nothing to do with each other, and where the layer is not called once for each batch.
        input: of the first images, ``(n, C, *)``.
    """

    layer: MixtureNorm | ModeNorm
    claims: Tensor
    input: Tensor


@dataclass
class _Parts:
    claims: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    bytes: int = 0


class Collector(Callback):
    """Keep the inputs of MixtureNorm and ModeNorm layers, until so many samples have come by; the rest is skipped.

    Args:
        pattern: which layers, as in :func:`~mn_lightning.swap.swap_norms`; None for all.
        samples: how many.

    Attributes:
        images: the samples, ``(N, C, H, W)``; empty if they are none.
        seen: how many samples have come by.

    Raises:
        InspectionError: in ``setup``, if there is no such layer.
    """

    def __init__(self, pattern: str | None, samples: int) -> None:
        self.pattern = pattern
        self.samples = samples
        self.seen = 0
        self._images: list[Tensor] = []
        self._layers: dict[str, MixtureNorm | ModeNorm] = {}
        self._parts: dict[str, _Parts] = {}
        self._called: set[str] = set()
        self._handles: list[RemovableHandle] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the layers; other callbacks have swapped them by now."""
        self._layers = choose_layers(pl_module, self.pattern)
        self._parts = {name: _Parts() for name in self._layers}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to listen."""
        self._listen()

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: object) -> None:
        """Note the images, or end the validation, which Lightning allows by StopIteration."""
        if self.seen >= self.samples:
            raise StopIteration
        self._begin(next(_images_in(batch), None))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: object
    ) -> None:
        """Count the batch."""
        self._end(len(next(_tensors_in(batch), ())))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have a generator make the samples."""
        self._listen()
        while self.seen < self.samples:
            self._begin(None)
            count = min(SAMPLES_AT_A_TIME, self.samples - self.seen)
            self._images.append(pl_module.sample(count).float().cpu())  # type: ignore[operator]
            self._end(count)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """End the prediction, of which only the preparations were wanted."""
        raise StopIteration

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def images(self) -> Tensor:
        """The samples that were noted."""
        sizes = {image.shape[1:] for image in self._images}
        return torch.cat(self._images) if len(sizes) == 1 else torch.empty(0)

    def collected(self) -> dict[str, Collected]:
        """Return what was found, of the layers that were called, by name."""
        found = {}
        for name, parts in self._parts.items():
            if parts.inputs:
                claims = torch.cat(parts.claims) if parts.claims else torch.empty(0)
                complete = len(claims) == len(self.images)
                found[name] = Collected(
                    self._layers[name], claims if complete else torch.empty(0), torch.cat(parts.inputs)
                )
        return found

    def _listen(self) -> None:
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._hook(name)))

    def _begin(self, images: Tensor | None) -> None:
        self._called.clear()
        if images is not None:
            self._images.append(images.detach().float().cpu())

    def _end(self, count: int) -> None:
        self.seen += count

    def _hook(self, name: str) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            if name in self._called:  # a layer that stands in several places is looked at in the first
                return
            self._called.add(name)
            parts, input = self._parts[name], args[0].detach()
            claims = _claims(input, layer)
            if claims is not None:
                parts.claims.append(claims.float().cpu())
            left = (MAX_BYTES - parts.bytes) // (4 * input[0].numel())
            if left > 0 or not parts.inputs:
                parts.inputs.append(upcast(input[: max(1, left)]).cpu())
                parts.bytes += 4 * parts.inputs[-1].numel()

        return hook


def choose_layers(model: nn.Module, pattern: str | None) -> dict[str, MixtureNorm | ModeNorm]:
    """Return the layers that can be inspected, by name.

    Raises:
        InspectionError: there are none, or none that ``pattern`` selects.
    """
    there = {name: layer for name, layer in model.named_modules() if isinstance(layer, (MixtureNorm, ModeNorm))}
    if not there:
        raise InspectionError(
            f"{type(model).__name__} holds no MixtureNorm or ModeNorm; give the configuration that it was trained "
            "with, whose NormSwapCallback puts them in"
        )
    if pattern is None:
        return there
    names = list(there)
    aliases = {alias: [name for name in members if name in there] for alias, members in layer_aliases(model).items()}
    try:
        return {name: there[name] for name in select(pattern, there, aliases)}
    except ValueError as error:
        raise InspectionError(f"layer {pattern!r} is none of those swapped; there are {', '.join(names)}") from error


def _claims(input: Tensor, layer: nn.Module) -> Tensor | None:
    if isinstance(layer, ModeNorm):
        return gates(input, layer)
    assert isinstance(layer, MixtureNorm)
    if layer.granularity == "channel":
        return None
    found = posteriors(input, layer.mixture, layer.eps)
    return found.reshape(*found.shape[:2], -1).mean(2)


def _tensors_in(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, dict):
        yield from (tensor for part in batch.values() for tensor in _tensors_in(part))
    elif isinstance(batch, (list, tuple)):
        yield from (tensor for part in batch for tensor in _tensors_in(part))


def _images_in(batch: Any) -> Iterator[Tensor]:
    return (tensor for tensor in _tensors_in(batch) if tensor.dim() == 4)
