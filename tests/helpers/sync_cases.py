"""Layers that see a batch in parts, one for each process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mn_lightning import MixtureNorm, ModeNorm

CHANNELS = 3
CASES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "mixture": (MixtureNorm, {}, (4, 2)),
    "mixture, four iterations": (MixtureNorm, {"em_iters": 4, "n_components": 4}, (4, 2)),
    "mixture of vectors": (MixtureNorm, {"n_components": 2}, ()),
    "mixture per channel": (MixtureNorm, {"granularity": "channel", "n_components": 2}, (3,)),
    "mixture with components' affine": (MixtureNorm, {"affine": "component"}, (4, 2)),
    "mixture with activation": (MixtureNorm, {"activation": torch.relu}, (4, 2)),
    "mixture on a sample of seeds": (MixtureNorm, {}, (40, 30)),
    "mode": (ModeNorm, {}, (4, 2)),
    "mode of vectors": (ModeNorm, {"n_components": 3}, ()),
}
SPLITS = {1: [[8]], 2: [[5, 3], [8, 0], [0, 8]], 3: [[3, 1, 4], [4, 0, 4]]}


def batch(shape: tuple[int, ...], step: int) -> tuple[Tensor, Tensor]:
    """Rows around three centres, and the gradient that comes back."""
    generator = torch.Generator().manual_seed(step)
    centres = 4 * torch.randn(3, CHANNELS, generator=generator, dtype=torch.float64)
    where = torch.randint(3, (8, *shape), generator=generator)
    x = centres[where].movedim(-1, 1)
    x = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def layer_of(case: str) -> nn.Module:
    kind, arguments, _ = CASES[case]
    torch.manual_seed(1)
    layer: nn.Module = kind(CHANNELS, sync=True, dtype=torch.float64, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def train(rank: int, case: str, split: list[int], steps: int = 2) -> dict[str, Tensor]:
    """A few training steps on this process' parts; parameter gradients are summed over the processes."""
    layer = layer_of(case)
    found: dict[str, Tensor] = {}
    for step in range(steps):
        whole, gradient = batch(CASES[case][2], step)
        x = whole.split(split)[rank].clone().requires_grad_()
        y = layer(x)
        layer.zero_grad()
        (y * gradient.split(split)[rank]).sum().backward()
        found |= {f"output {step}": y.detach(), f"input gradient {step}": x.grad}
        for name, parameter in layer.named_parameters():
            total = parameter.grad.clone()
            if dist.is_initialized():
                dist.all_reduce(total)
            found[f"{name} gradient {step}"] = total
    found |= {name: value.clone() for name, value in layer.named_buffers() if not name.startswith("queue.")}
    return found


def train_all(rank: int, splits: list[list[int]]) -> dict[tuple[str, int], dict[str, Tensor]]:
    return {(case, i): train(rank, case, split) for case in CASES for i, split in enumerate(splits)}


def refit(rank: int, splits: list[list[int]]) -> list[dict[str, Tensor]]:
    """Queues of unequal length, one of them empty, are refitted together."""
    found = []
    for split in splits:
        layer = MixtureNorm(CHANNELS, queue_rows_per_batch=None, refit_iters=20, dtype=torch.float64)
        x = batch((40,), 0)[0].split(split)[rank]
        if len(x):
            layer(x)
        assert layer.refit()
        found.append({name: value.clone() for name, value in layer.named_buffers() if name.startswith("mixture")})
        found[-1]["stale"] = torch.tensor(layer.stale)
    return found
