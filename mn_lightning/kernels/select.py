"""The one place that decides how an activation is computed.

``reference`` takes everything. The other backends take what they are made for: tensors of their device that are
computed with here and now. Compilers, exports, functorch's transforms and meta tensors get ``reference``: they make
their own plan of it, and cannot look into other kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mn_lightning.kernels import cpu, reference
from mn_lightning.kernels.inner_graph import wants_gradients
from mn_lightning.kernels.pieces import worth_cutting
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
        activation: applied inside the normalization; one with parameters needs its gradient from autograd.
        processes: those that hold the rows between them.
    """
    if not _is_eager(x) or x.shape[0] != 1 or processes.size > 1 or _learns(activation):
        return _BACKENDS["reference"]
    return _BACKENDS[_named.get() or ("cpu" if worth_cutting(x) else "reference")]


def backend_for_samples(x: Tensor, centred: bool, parameters: tuple[Tensor | None, ...]) -> ModuleType:
    """Pick the backend for the affine map of each sample and channel of ``(N, C, *)``.

    Args:
        x: the activation.
        centred: whether variances are needed.
        parameters: what the map is made of.
    """
    if not _is_eager(x) or x.dim() == 2 or x.numel() == 0:
        return _BACKENDS["reference"]
    # Without variances and gradients it is one mean and one map, which torch has as they are.
    simple = not centred and not wants_gradients(x, *parameters)
    return _BACKENDS[_named.get() or ("cpu" if worth_cutting(x) and not simple else "reference")]


def _is_eager(x: Tensor) -> bool:
    """Whether ``x`` is computed with here and now, on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter)
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
    )


def _learns(activation: Any) -> bool:
    return isinstance(activation, nn.Module) and any(True for _ in activation.parameters())
