"""Activations seen as rows: what is refused, and views, not copies, as :mod:`mn_lightning.gmm` takes them."""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from mn_lightning.kernels.types import Mixture

Granularity = Literal["layer", "channel"]
GRANULARITIES = get_args(Granularity)  # here, because torch.compile cannot look into the type


def check_input(owner: str, input: Tensor, num_features: int | None = None) -> None:
    """Refuse an input that is not floating point of shape ``(N, C)`` or ``(N, C, *)``, with C as given if it is."""
    channels = "C" if num_features is None else num_features
    if input.dim() < 2 or num_features not in (None, input.shape[1]):
        raise ValueError(
            f"{owner} got input of shape {tuple(input.shape)}; it takes (N, {channels}) or (N, {channels}, *)"
        )
    if not input.is_floating_point():
        raise ValueError(f"{owner} got input of dtype {input.dtype}; it takes floating point, call .float() on it")


def check_rows(owner: str, input: Tensor) -> None:
    """Refuse an input with fewer than two values for each channel."""
    if input.numel() <= input.shape[1]:
        raise ValueError(
            f"{owner} expected more than one value per channel in training, got input of shape "
            f"{tuple(input.shape)}; use a larger batch or drop_last=True in the DataLoader"
        )


def check_updatable(owner: str, input: Tensor, state: Tensor) -> None:
    """Refuse to update ``state`` in place from an input that ``torch.func.vmap`` maps over, where the state is one."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return
    if _is_mapped(input) and not _is_mapped(state):
        raise RuntimeError(
            f"{owner} in training updates its statistics in place, which vmap cannot do with one layer's for many "
            "inputs; call .eval() on it, set its track_running_stats = False, or map over its buffers too, as with "
            "torch.func.stack_module_state"
        )


def _is_mapped(value: Tensor) -> bool:
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(value):
        if functorch.is_batchedtensor(value):
            return True
        value = functorch.get_unwrapped(value)
    return False


def is_empty(input: Tensor) -> bool:
    """Whether there is nothing to take moments of, as in a process' part of a last batch."""
    return input.numel() == 0


def unchanged(input: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return an empty ``input`` as BatchNorm does: all ``parameters`` get a gradient, of zeros."""
    return input + sum((parameter.flatten()[:0].sum() for parameter in parameters), input.new_zeros(()))


def upcast(x: Tensor) -> Tensor:
    """Float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def to_rows(x: Tensor, granularity: Granularity) -> Tensor:
    """View ``(N, C, *)`` as observations ``(G, B, M, D)`` of :mod:`mn_lightning.gmm`, with no copy if it is dense.

    One mixture over C-vectors is G = 1, D = C; one mixture per channel is G = C, D = 1. Blocks are samples; rows that
    lie one after the other are a single block.
    """
    last = x.movedim(1, -1)
    if last.is_contiguous():  # (N, C), and channels_last
        rows = last.reshape(1, 1, -1, x.shape[1])
    else:
        rows = (x.unsqueeze(2) if x.dim() == 2 else x.flatten(2)).mT.unsqueeze(0)
    return rows if granularity == "layer" else rows.permute(3, 1, 2, 0)


def from_rows(rows: Tensor, like: Tensor, granularity: Granularity) -> Tensor:
    """Undo :func:`to_rows` for a tensor ``like`` the input, in its memory format."""
    if granularity == "channel":
        rows = rows.permute(3, 1, 2, 0)
    last = like.movedim(1, -1)
    if last.is_contiguous():
        return rows.contiguous().reshape(last.shape).movedim(-1, 1)
    return rows.squeeze(0).mT.contiguous().reshape(like.shape)


def per_group(parameter: Tensor, granularity: Granularity) -> Tensor:
    """Bring a parameter ``(C,)`` or ``(K, C)`` into the mixtures' shape ``(G, 1, D)`` or ``(G, K, D)``."""
    parameter = upcast(parameter)
    parameter = parameter.unsqueeze(0) if parameter.dim() == 1 else parameter
    return parameter.unsqueeze(0) if granularity == "layer" else parameter.mT.unsqueeze(-1)


def pack(mixture: Mixture, granularity: Granularity) -> Mixture:
    """From the public shapes, weights (K,) or (K, C), means and variances (K, C), to ``(G, K)`` and ``(G, K, D)``."""
    weights = upcast(mixture.weights)
    return Mixture(
        weights.unsqueeze(0) if granularity == "layer" else weights.mT,
        per_group(mixture.means, granularity),
        per_group(mixture.variances, granularity),
    )


def unpack(mixture: Mixture, granularity: Granularity) -> Mixture:
    """Undo :func:`pack`."""
    if granularity == "layer":
        return Mixture(*(t.squeeze(0) for t in mixture))
    return Mixture(mixture.weights.mT, mixture.means.squeeze(-1).mT, mixture.variances.squeeze(-1).mT)
