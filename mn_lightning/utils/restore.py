"""Running a model in the middle of its training without leaving a trace."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put back afterwards: training flags and buffers of ``module``, and the random states of Python, NumPy and torch.

    Args:
        module: its parameters are not put back.
        device: the random states of the CPU and of all devices of this type are put back.
    """
    with modes_untouched(module), rng_untouched(device), buffers_untouched(module):
        yield


@contextmanager
def modes_untouched(module: nn.Module) -> Iterator[None]:
    """Put the training flag of ``module`` and of each module in it back afterwards."""
    flags = [(child, child.training) for child in module.modules()]
    try:
        yield
    finally:
        for child, flag in flags:
            child.training = flag


@contextmanager
def rng_untouched(device: torch.device) -> Iterator[None]:
    """Put the random states of Python, NumPy, torch on the CPU and on all devices of this type back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    mps = torch.mps.get_rng_state() if device.type == "mps" else None  # knows no device index, as fork_rng wants it
    devices = [] if device.type in ("cpu", "mps") else list(range(torch.get_device_module(device).device_count()))
    try:
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def buffers_untouched(module: nn.Module) -> Iterator[None]:
    """Put all buffers of ``module`` back afterwards, also those that were replaced by other tensors."""
    kept = [
        (child, name, buffer, buffer.clone())
        for child in module.modules()
        for name, buffer in child._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for child, name, buffer, content in kept:
                buffer.copy_(content)
                child._buffers[name] = buffer


def seed_all(seed: int, block: int) -> None:
    """Seed Python, NumPy and torch on every device with a function of ``seed`` and ``block``."""
    value = int(np.random.SeedSequence((seed, block)).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
