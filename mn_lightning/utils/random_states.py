"""The states of all global random number generators of a process, in plain types and tensors."""

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the random states of Python, NumPy, torch on the CPU and, where it is another, on ``device``.

    ``torch.load(..., weights_only=True)`` reads them: some 15 kB.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
        "cpu": torch.get_rng_state(),
    }
    if device.type != "cpu":
        states[device.type] = _generator(device).get_rng_state(*_place(device))
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> bool:
    """Set what :func:`random_states` has returned.

    Returns:
        Whether the state of ``device`` was among it: on a device of another type, its random state stays as it is.
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cpu":
        return True
    if device.type not in states:
        return False
    _generator(device).set_rng_state(states[device.type].cpu(), *_place(device))
    return True


def _generator(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _place(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # torch.mps has one device, and takes none
