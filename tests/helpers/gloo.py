"""Run a function in several processes that gloo connects over the loopback interface."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.forked import start_server


def run(function: Callable[..., Any], world_size: int, folder: Path, *args: Any, seconds: int = 240) -> list[Any]:
    """Return what ``function(rank, *args)`` returns in each of ``world_size`` processes; none is left behind."""
    deadline = time.monotonic() + seconds
    folder.mkdir(parents=True, exist_ok=True)
    start_server()
    context = mp.start_processes(
        _entry,
        (function, world_size, folder, dict(os.environ), args),
        nprocs=world_size,
        join=False,
        start_method="forkserver",
    )
    try:
        while not context.join(max(0.0, deadline - time.monotonic())):  # an error in any of them is raised here
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{function.__name__} took more than {seconds} seconds in {world_size} processes")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _entry(
    rank: int,
    function: Callable[..., Any],
    world_size: int,
    folder: Path,
    environment: dict[str, str],
    args: tuple[Any, ...],
) -> None:
    os.environ.clear()  # the fork server's is that of the first test
    os.environ.update(environment, GLOO_SOCKET_IFNAME="lo")
    os.environ.pop("PL_GLOBAL_SEED", None)  # an earlier test's, with which Lightning would seed this process again
    torch.set_num_threads(1)
    connect(rank, world_size, folder)
    result = function(rank, *args)
    torch.save(result, folder / f"{rank}.pt")
    if dist.is_initialized():
        disconnect()


def connect(rank: int, world_size: int, folder: Path) -> None:
    """Make this process one of ``world_size``, all of which pass the same ``folder``."""
    # A file instead of a port: nothing else on the machine can have taken it.
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / f'rendezvous-{world_size}'}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=200),
    )


def disconnect() -> None:
    """Leave the others when all are here."""
    dist.barrier()
    dist.destroy_process_group()
