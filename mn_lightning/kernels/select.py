"""The one place that decides how an activation is computed.

``reference`` takes everything. The other backends take what they are made for: tensors of their device that are
computed with here and now. Compilers, exports, functorch's transforms and meta tensors get ``reference``: they make
their own plan of it, and cannot look into other kernels. On a GPU, torch.compile takes ``triton``'s as operations.

On a GPU it is the number of launches that costs, more than what they compute. ``triton`` therefore takes a norm as a
whole, in one launch; see :func:`gpu_kernels`.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mn_lightning.kernels import cpu, reference
from mn_lightning.kernels.transforms import takes_tangents
from mn_lightning.kernels.types import Activation, Mixture
from mn_lightning.utils.checks import check_choice
from mn_lightning.utils.compilers import constant_when_compiled
from mn_lightning.utils.distributed import ALONE, Processes

BackendName = Literal["reference", "cpu", "triton"]

TRITON_BY_DEFAULT = True
"""Whether activations on a GPU are computed with ``triton`` unless told otherwise.

On an H200 it takes between a twentieth and a half of the reference's time for every layer and input measured.
"""

LEAST_CAPABILITY = (8, 0)
"""Of an NVIDIA GPU, for Triton."""

# What triton's norms do not take is computed with the reference.
_BACKENDS: dict[str, ModuleType] = {"reference": reference, "cpu": cpu, "triton": reference}
_named: ContextVar[BackendName | None] = ContextVar("backend", default=None)


@contextmanager
def use(name: BackendName) -> Iterator[None]:
    """Compute with the backend ``name`` inside the context, wherever it can, and with ``reference`` elsewhere.

    Args:
        name: ``"reference"``, ``"cpu"`` or ``"triton"``.

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


def backend_for_rows(x: Tensor) -> ModuleType:
    """Pick the backend for a fit to rows ``(G, B, M, D)``."""
    return _chosen() if _is_eager(x) and x.shape[0] == 1 else reference


def backend_for_mixture(
    x: Tensor, one_mixture: bool = True, activation: Activation | None = None, processes: Processes = ALONE
) -> ModuleType:
    """Pick the backend for MixtureNorm of ``(N, C, *)``: ``cpu``, which takes it as it is, or ``reference``.

    Args:
        x: the activation.
        one_mixture: whether there is one over its C-vectors, and not one for each channel.
        activation: applied inside the normalization.
        processes: those that hold the batch between them.
    """
    taken = one_mixture and processes.size == 1 and _is_eager(x) and cpu.knows(activation)
    return _chosen() if taken else reference


def backend_for_samples(x: Tensor) -> ModuleType:
    """Pick the backend for the affine map of each sample and channel of ``(N, C, *)``."""
    return _chosen() if _is_eager(x) else reference


def backend_for_queue(x: Tensor) -> ModuleType:
    """Pick the backend that keeps rows of ``(N, C, *)`` for a refit."""
    gpu = gpu_kernels(x)
    if gpu is not None:
        return gpu
    return _chosen() if _is_eager(x) and x.dtype in (torch.float32, torch.float64) else reference


def _chosen() -> ModuleType:
    name = _named.get() or "cpu"
    return _BACKENDS["reference" if name == "cpu" and not cpu.is_available() else name]


def gpu_kernels(
    x: Tensor, components: int = 1, processes: Processes = ALONE, features: int | None = None
) -> ModuleType | None:
    """Return :mod:`mn_lightning.kernels.triton.norms` if it takes norms of ``x`` as a whole, else None.

    Args:
        x: an activation ``(N, C, *)``, or something else that has its rows.
        components: number of components or modes.
        processes: those that hold the batch between them.
        features: length of a row, C by default; of rows alone, which no compiler is given the kernels for.
    """
    if processes.size > 1:
        return None
    if torch.compiler.is_compiling():
        if features is not None or not _compiles_with_triton(x.device):
            return None
        from mn_lightning.kernels.triton import norms

        kernels: ModuleType | None = norms
    elif not _takes_triton(x.device) or not _is_here_and_now(x):
        return None
    else:
        kernels = _triton(x.device)
    return kernels if kernels is not None and kernels.takes(x, features or x.shape[1], components) else None


def _takes_triton(device: torch.device) -> bool:
    """Whether activations on a device are computed with ``triton``, as far as has been said."""
    if device.type != "cuda" and not _interpreting():
        return False
    named = _named.get()
    return TRITON_BY_DEFAULT if named is None else named == "triton"


@constant_when_compiled
def _compiles_with_triton(device: torch.device) -> bool:
    """Whether torch.compile takes the kernels as they are, each as one operation; it sticks to what is found here.

    What is exported may be run where this package is not: it gets torch's operations.
    """
    # Asked here, where nothing is traced: in some versions of torch a tracer's answer is always yes. Before 2.7 there
    # is none, and torch's operations are taken.
    exports = getattr(torch.compiler, "is_exporting", None)
    return exports is not None and not exports() and _takes_triton(device) and _triton(device) is not None


@lru_cache
def _triton(device: torch.device) -> ModuleType | None:
    """Return the kernels if they run on a device; if not, say so, once."""
    fault = _fault(device)
    if fault:
        warnings.warn(f"{fault}: norms are computed with torch's operations, which takes longer", stacklevel=3)
        return None
    from mn_lightning.kernels.triton import norms

    return norms


def _fault(device: torch.device) -> str:
    """What keeps the kernels from running on a device; empty if nothing does."""
    if find_spec("triton") is None:
        return "Triton is not installed (`pip install triton`)"
    capability = LEAST_CAPABILITY if device.type == "cpu" else torch.cuda.get_device_capability(device)
    if device.type == "cuda" and (torch.version.cuda is None or capability < LEAST_CAPABILITY):
        return f"the kernels for GPUs are made for NVIDIA's of compute capability {LEAST_CAPABILITY[0]} and later"
    from mn_lightning.kernels.triton import norms

    ones = torch.ones(1, 1, device=device)
    try:  # one may be without a C compiler, for example, which Triton needs to start its first kernel
        norms.try_out(Mixture(ones[0], ones, ones))
    except Exception as error:
        return f"Triton does not work here ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return ""


def _interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, which takes tensors of any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _is_eager(x: Tensor) -> bool:
    """Whether ``x`` is computed with here and now, on a CPU."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and _is_here_and_now(x)


def _is_here_and_now(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.numel() > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and not takes_tangents()
    )
