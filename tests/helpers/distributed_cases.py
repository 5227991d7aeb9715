"""What each process does with the others, for tests of utils.distributed."""

from typing import Any

import torch
from torch import nn

from mn_lightning.utils.distributed import all_processes


def buffers(rank: int) -> nn.Module:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Module())
    module[0].running_mean.fill_(rank)
    module[1].register_buffer("unsaved", torch.full((), float(rank)), persistent=False)
    module[1].register_buffer("nothing", None)
    return module


def outcome(action: Any) -> Any:
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fail_in(rank: int, failing: int) -> str:
    if rank == failing:
        raise ValueError("only here")
    return "done"


def together(rank: int) -> dict[str, Any]:
    processes = all_processes()
    x = torch.arange(3.0) + rank
    x.requires_grad_()
    one, other = processes.sum(x, x.square())
    (one.sum() + (rank + 1) * other.sum()).backward()
    module = buffers(rank)
    processes.copy_buffers(module)
    return {
        "rank": (processes.rank, processes.size),
        "sum": one.detach(),
        "square": other.detach(),
        "gradient": x.grad,
        "max": processes.max(torch.tensor([1.0, -1.0]) * rank),
        "mine": processes.sum(processes.mine(torch.tensor(rank + 0.5)))[0],
        "joined": processes.concatenate(torch.full((2 * rank, 3), rank)),
        "features": processes.concatenate(torch.full((2 - rank, 1), rank / 4, requires_grad=True)),
        "flags": processes.concatenate(torch.tensor([rank == 1])),
        "nothing": processes.concatenate(torch.zeros(0, 5)),
        "works": processes.together(lambda: rank),
        "fails": outcome(lambda: processes.together(lambda: fail_in(rank, 2))),
        "zero": processes.on_rank_zero(lambda: {"from": rank}),
        "zero fails": outcome(lambda: processes.on_rank_zero(lambda: fail_in(rank, 0))),
        "buffers": [module[0].running_mean, module[1].unsaved],
    }
