"""The table of layers and settings that drives every test in ``tests/layers/properties``.

A layer or a setting that is added here is tested by all of them. A file of tests there whose name ``test_*.py`` says a
property has one test function or more that take an argument ``case``; they are run for each row of ``OURS``, and of
``TORCHS`` too if the file says ``WITH_TORCH = True``: what torch's own layer does not pass is no fair test.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm

CHANNELS = 3
SHAPE = (8, CHANNELS, 4, 2)


@dataclass(frozen=True)
class Case:
    """A layer with settings.

    Attributes:
        kind: its class; ``kind(num_features, **arguments, device=..., dtype=...)`` makes one.
        arguments: its settings.
        flaw: the property that it is known not to have; empty but in the test of these tests.
    """

    kind: Callable[..., nn.Module]
    arguments: dict[str, Any] = field(default_factory=dict)
    flaw: str = ""

    def make(self, num_features: int = CHANNELS, **more: Any) -> nn.Module:
        """A new layer."""
        return self.kind(num_features, **self.arguments_made(), **more)

    def arguments_made(self) -> dict[str, Any]:
        """The settings, with a module of its own for each layer where they name a class of modules."""
        return {name: value() if isinstance(value, type) else value for name, value in self.arguments.items()}

    def in_use(self, num_features: int = CHANNELS, **more: Any) -> nn.Module:
        """A layer with parameters away from their initial values and some batches behind it, in training mode."""
        layer = self.make(num_features, **more)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -0.5, 1.5)
        for step in range(4):
            layer(some_input((8, num_features, 4, 2), more.get("dtype")) * 2 + 1)
            if step == 2:
                refit(layer)
        return layer


class AnyBatchNorm(_BatchNorm):
    """torch's layer for input of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


OURS = {
    "mixture": Case(MixtureNorm),
    "mixture of one component": Case(MixtureNorm, {"n_components": 1}),
    "mixture of four, four iterations": Case(MixtureNorm, {"n_components": 4, "em_iters": 4}),
    "mixture per channel": Case(MixtureNorm, {"n_components": 2, "granularity": "channel"}),
    "mixture with components' affine": Case(MixtureNorm, {"n_components": 2, "affine": "component"}),
    "mixture without affine": Case(MixtureNorm, {"n_components": 2, "affine": None, "scale": "unit"}),
    "mixture with relu": Case(MixtureNorm, {"activation": relu}),
    "mixture with components' affine and relu": Case(MixtureNorm, {"affine": "component", "activation": relu}),
    "mixture with PReLU": Case(MixtureNorm, {"n_components": 2, "activation": nn.PReLU}),
    "mixture fitted to some rows": Case(MixtureNorm, {"n_components": 2, "fit_rows": 30}),
    "mixture of all rows": Case(MixtureNorm, {"queue_rows_per_batch": None}),
    "mixture of some rows": Case(MixtureNorm, {"n_components": 2, "queue_rows_per_batch": 16}),
    "mode": Case(ModeNorm),
    "mode, cumulative": Case(ModeNorm, {"n_components": 3, "momentum": None}),
    "mode without affine": Case(ModeNorm, {"affine": False}),
    "mode group": Case(ModeGroupNorm),
    "mode group without affine": Case(ModeGroupNorm, {"n_components": 3, "affine": False}),
}
TORCHS = {"batch norm": Case(AnyBatchNorm)}


def one_of_each_kind() -> dict[str, Case]:
    """The first row of each class, for what takes long."""
    found: dict[Any, str] = {}
    for name, case in OURS.items():
        found.setdefault(case.kind, name)
    return {name: OURS[name] for name in found.values()}


def some_input(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype | None = None) -> Tensor:
    """Random rows around three centres, so that posteriors and gates are neither constant nor all 0 or 1."""
    centres = torch.tensor([-2.0, 0.5, 3.0])[torch.arange(shape[0]) % 3].reshape(-1, *(1 for _ in shape[1:]))
    return (centres + 0.8 * torch.randn(shape)).to(dtype or torch.float32)


def refit(layer: nn.Module) -> None:
    """Fit what evaluation uses, where the layer has such a thing."""
    if isinstance(layer, MixtureNorm):
        assert layer.refit()


def state(layer: nn.Module) -> dict[str, Tensor]:
    """Copies of all buffers, also of those that are not saved."""
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)


def outcome(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, and gradients of input and parameters, under a cotangent that is neither constant nor random."""
    x = x.detach().requires_grad_()
    y = layer(x)
    cotangent = torch.linspace(-1, 1, y.numel(), device=y.device).reshape(y.shape).to(y.dtype)
    learned = dict(layer.named_parameters())
    gradients = torch.autograd.grad(y, [x, *learned.values()], cotangent, allow_unused=True, materialize_grads=True)
    names = ["input", *learned]
    return {"output": y.detach(), **{f"gradient of {n}": g for n, g in zip(names, gradients, strict=True)}}
