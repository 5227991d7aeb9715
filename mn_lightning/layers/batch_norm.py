"""What a new layer takes over from the BatchNorm layer in whose place it is built."""

from typing import Any

from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


def device_and_dtype(batch_norm: _BatchNorm) -> dict[str, Any]:
    """Device and dtype of a BatchNorm layer, as keyword arguments of a layer.

    Empty for a layer with neither weight nor running statistics: it stands on no device.
    """
    held = (batch_norm.weight, batch_norm.bias, batch_norm.running_mean)
    reference = next((tensor for tensor in held if tensor is not None), None)
    return {} if reference is None else {"device": reference.device, "dtype": reference.dtype}


def is_synchronized(batch_norm: _BatchNorm) -> bool:
    """Whether the batches of all processes are one for the layer: whether it is a SyncBatchNorm.

    Raises:
        ValueError: it is one for a part of the processes.
    """
    if not isinstance(batch_norm, nn.SyncBatchNorm):
        return False
    if batch_norm.process_group is not None and batch_norm.process_group is not distributed.group.WORLD:
        raise ValueError(
            "a SyncBatchNorm with a process_group of its own, where sync=True takes the batches of all processes as "
            "one; give sync=True or sync=False, or build it without process_group"
        )
    return True
