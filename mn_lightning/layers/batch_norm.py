"""What a new layer takes over from the BatchNorm layer in whose place it is built."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm


def device_and_dtype(batch_norm: _BatchNorm) -> dict[str, Any]:
    """Device and dtype of a BatchNorm layer, as keyword arguments of a layer.

    Empty for a layer with neither weight nor running statistics: it stands on no device.
    """
    held = (batch_norm.weight, batch_norm.bias, batch_norm.running_mean)
    reference = next((tensor for tensor in held if tensor is not None), None)
    return {} if reference is None else {"device": reference.device, "dtype": reference.dtype}
