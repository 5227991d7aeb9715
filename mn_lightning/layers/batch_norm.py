from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm


def placement(batch_norm: _BatchNorm) -> dict[str, Any]:
    """Device and dtype of a BatchNorm layer as keyword arguments; empty if it holds nothing to tell them by."""
    reference = batch_norm.weight if batch_norm.affine else batch_norm.running_mean
    return {} if reference is None else {"device": reference.device, "dtype": reference.dtype}
