"""Data sets that are held on the device of the training."""

import torch
from lightning import LightningDataModule
from torch import Tensor


def check_on_device(owner: str, on_device: object, num_workers: int) -> None:
    """Refuse an ``on_device`` that is not a bool, and workers together with it.

    Raises:
        ValueError: in either case.
    """
    if not isinstance(on_device, bool):
        raise ValueError(
            f"{owner} got on_device={on_device!r}; it takes True or False, give the device itself to the Trainer as "
            "accelerator"
        )
    if on_device and num_workers:
        raise ValueError(
            f"{owner} got num_workers={num_workers} with on_device=True; nothing is left for workers to do there, give "
            "num_workers=0"
        )


def device_for(module: LightningDataModule, on_device: bool) -> torch.device:
    """Return where the tensors of ``module`` go: the device of this process' Trainer, or the CPU without one."""
    return module.trainer.strategy.root_device if on_device and module.trainer else torch.device("cpu")


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to ``device``, without waiting for what a GPU is still computing."""
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory can the GPU copy it later, in order. torch does not reuse that memory before then.
    return tensor.pin_memory().to(device, non_blocking=True)
