"""The backends that differ on this machine."""

from typing import get_args

import torch

from mn_lightning.kernels import reference, select


def backends(device: str = "cpu") -> list[str]:
    """Names that ``select.use`` takes, the reference first; none that is the reference under another name."""
    names = sorted(get_args(select.BackendName), key=lambda name: name != "reference")
    return [name for name in names if name == "reference" or _takes(name, torch.zeros(1, 2, 8, 3, device=device))]


def _takes(name: str, rows: torch.Tensor) -> bool:
    with select.use(name):
        if select.backend_for_rows(rows[:1]) is not reference:
            return True
        # Kernels of GPUs take norms as a whole.
        return hasattr(select, "gpu_kernels") and select.gpu_kernels(rows) is not None
