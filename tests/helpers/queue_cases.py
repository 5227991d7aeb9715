"""Models in processes of their own, whose queues must stay their own; see tests/layers/test_queue_ddp.py."""

from types import SimpleNamespace

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mn_lightning import MixtureNorm, swap_norms
from mn_lightning.callbacks import NormSwapCallback, QueueResetCallback
from mn_lightning.layers.queue import keep_queues_apart

STEPS = 3
WAYS = ("built in", "swapped in __init__", "by the callback", "by hand")


class Module(LightningModule):
    def __init__(self, how: str) -> None:
        super().__init__()
        norm = MixtureNorm(4, n_components=2) if how in ("built in", "by hand") else nn.BatchNorm1d(4)
        self.network = nn.Sequential(nn.Linear(4, 4), norm)
        if how == "swapped in __init__":
            swap_norms(self.network, n_components=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def queued_rows(rank: int) -> dict[str, torch.Tensor]:
    return {how: rows_of(rank, how) for how in WAYS}


def rows_of(rank: int, how: str) -> torch.Tensor:
    """Rows in the queue of this process after some steps, in which its input is its rank."""
    torch.manual_seed(0)
    model = Module(how)
    nn.init.eye_(model.network[0].weight)
    nn.init.zeros_(model.network[0].bias)
    if how == "by hand":
        keep_queues_apart(model)
    else:
        callback = NormSwapCallback(n_components=2) if how == "by the callback" else QueueResetCallback()
        trainer = SimpleNamespace(callbacks=[callback], strategy=None)
        callback.setup(trainer, model, "fit")
    parallel = DistributedDataParallel(model)
    for step in range(STEPS):
        parallel(torch.full((5, 4), 10.0 * rank + step) + torch.rand(5, 4)).sum().backward()
    queue = model.network[1].queue
    assert queue.pushes == STEPS
    return queue.rows[:STEPS, :5].detach().clone()
