"""The one place that decides how an activation is computed.

``reference`` takes everything. The other backends take what they are made for: tensors of their device that are
computed with here and now. Compilers, exports, functorch's transforms and meta tensors get ``reference``: they make
their own plan of it, and cannot look into other kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from mn_lightning.kernels import cpu, reference
from mn_lightning.kernels.types import Activation
from mn_lightning.utils.checks import check_choice
from mn_lightning.utils.distributed import ALONE, Processes

BackendName = Literal["reference", "cpu"]


_BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu}
_named: ContextVar[BackendName | None] = ContextVar("backend", default=None)


@contextmanager
def use(name: BackendName) -> Iterator[None]:
    """Compute with the backend ``name`` inside the context, wherever it can, and with ``reference`` elsewhere.

    Args:
        name: ``"reference"`` or ``"cpu"``.

    Raises:
        ValueError: an unknown name.

    Examples:
        >>> from mn_lightning import MixtureNorm
        >>> layer, x = MixtureNorm(8), torch.randn(16, 8, 4, 4)
        >>> with use("reference"):
        ...     y = layer(x)
    """
    check_choice("use", "name", name, get_args(BackendName))
    before = _named.set(name)
    try:
        yield
    finally:
        _named.reset(before)


def backend_for_rows(x: Tensor, activation: Activation | None = None, processes: Processes = ALONE) -> ModuleType:
    """Pick the backend for passes over rows ``(G, B, M, D)``.

    Args:
        x: the rows.
        activation: applied inside the normalization.
        processes: those that hold the rows between them.
    """
    if not _is_eager(x) or x.shape[0] != 1 or processes.size > 1 or not cpu.knows(activation):
        return reference
    return _chosen()


def backend_for_samples(x: Tensor) -> ModuleType:
    """Pick the backend for the affine map of each sample and channel of ``(N, C, *)``."""
    return _chosen() if _is_eager(x) else reference


def _chosen() -> ModuleType:
    name = _named.get() or "cpu"
    return _BACKENDS["reference" if name == "cpu" and not cpu.is_available() else name]


def _is_eager(x: Tensor) -> bool:
    """Whether ``x`` is computed with here and now, on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
