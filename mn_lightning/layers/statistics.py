"""Statistics of a layer stay in float32 when the layer is cast to half precision."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


def statistics_dtype() -> torch.dtype:
    """Dtype of new statistics: torch's default, but float32 at least."""
    dtype = torch.get_default_dtype()
    return torch.float32 if dtype in _HALF else dtype


class KeepsStatistics(nn.Module):
    """Base of the layers whose evaluation depends on statistics of their training.

    A variance above 65,504 is infinite in float16, and an average over many batches stops changing in bfloat16. So a
    cast of the layer, as by ``precision="16-true"``, casts its parameters and leaves its statistics in float32.

    Attributes:
        track_running_stats: set it to False to keep the statistics as they are in training too, as Lightning's
            ``BaseFinetuning`` does with BatchNorm.
    """

    statistics: ClassVar[tuple[str, ...]]
    """Names of the buffers."""

    track_running_stats = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = {name: self._buffers[name] for name in self.statistics}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            now = self._buffers[name]
            if value is not None and now is not None and now.dtype in _HALF:
                self._buffers[name] = value.to(now.device, torch.float32)
        return self
