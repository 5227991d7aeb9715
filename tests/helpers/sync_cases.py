"""Layers that see a batch in parts, one for each process."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers import gloo
from helpers.layers import CHANNELS, Case
from torch import Tensor, nn

from mn_lightning import MixtureNorm

SPLITS = {2: [[5, 3], [8, 0], [0, 8]], 3: [[3, 1, 4], [4, 0, 4]]}
SHAPES: dict[str, tuple[int, ...]] = {"images": (4, 2), "vectors": (), "a sample of the rows seeds": (40, 30)}
"""What follows samples and channels; k-means++ looks at some of the rows only where there are many."""


def batch(shape: tuple[int, ...], step: int) -> tuple[Tensor, Tensor]:
    """Rows around three centres, and the gradient that comes back."""
    generator = torch.Generator().manual_seed(step)
    centres = 4 * torch.randn(3, CHANNELS, generator=generator, dtype=torch.float64)
    where = torch.randint(3, (8, *shape), generator=generator)
    x = centres[where].movedim(-1, 1)
    x = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def layer_of(case: Case) -> nn.Module:
    torch.manual_seed(1)
    layer = case.make(dtype=torch.float64)
    if hasattr(layer, "sync"):
        layer.sync = True
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def train(rank: int, case: Case, shape: tuple[int, ...], split: list[int], steps: int = 2) -> dict[str, Tensor]:
    """A few training steps on this process' parts; parameter gradients are summed over the processes."""
    layer = layer_of(case)
    found: dict[str, Tensor] = {}
    for step in range(steps):
        whole, gradient = batch(shape, step)
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


def train_and_refit(rank: int, world_size: int, cases: list[tuple[Case, tuple[int, ...]]]) -> dict[str, Any]:
    """What each of ``world_size`` processes finds, for each case and each way to split a batch."""
    splits = SPLITS[world_size]
    trained = [[train(rank, *case, split) for split in splits] for case in cases]
    return {"trained": trained, "refitted": refit(rank, splits)}


def all_world_sizes(rank: int, folder: Path, cases: list[tuple[Case, tuple[int, ...]]]) -> dict[int, Any]:
    """Three processes together, then two of them."""
    found = {3: train_and_refit(rank, 3, cases)}
    gloo.disconnect()
    if rank < 2:
        gloo.connect(rank, 2, folder)
        found[2] = train_and_refit(rank, 2, cases)
        gloo.disconnect()
    return found
