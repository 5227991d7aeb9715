"""Layers and inputs of any kind, and how far from the plain formulas in float64 a result may be."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import event
from hypothesis import strategies as st
from torch import Tensor, nn

from mn_lightning import MixtureNorm
from mn_lightning.gmm import Mixture

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = ["contiguous", "channels_last", "transposed", "every other"]
VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "three clusters": lambda x: x + torch.arange(len(x)).view(-1, *[1] * (x.dim() - 1)) % 3 * 8,
    "zero": torch.zeros_like,
    "constant": lambda x: torch.full_like(x, 3.7),
    "large constant": lambda x: torch.full_like(x, 1e4),
    "two values": lambda x: (x > 0).double() * 6 - 2,
    "two samples": lambda x: x[torch.arange(len(x)) % 2],
    "a dead channel": lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1),
    "an outlier": lambda x: torch.cat([x[:1].sign() * 6e4, x[1:]]),
    "far from zero": lambda x: x + 1e4,
    "channels of different size": lambda x: (x.movedim(1, -1) * 10 ** torch.linspace(-4, 4, x.shape[1])).movedim(-1, 1),
    "tiny": lambda x: x * 1e-7,
    "large": lambda x: x * 1e4,
}


def one_of(draw: st.DrawFn, options: Any) -> Any:
    return draw(st.sampled_from(list(options)))


def number(draw: st.DrawFn, low: int, high: int) -> int:
    """Below 100: among larger ones, hypothesis puts in constants of whatever modules have been imported so far."""
    assert high < 100
    return draw(st.integers(low, high))


@st.composite
def batches(draw: st.DrawFn, dtype: torch.dtype) -> Tensor:
    """An input ``(N, C, *)`` with more than one value for each channel and each sample."""
    torch.manual_seed(number(draw, 0, 99))
    spatial = [number(draw, 1, 3) for _ in range(number(draw, 0, 3))]
    few = 1 if torch.Size(spatial).numel() > 1 else 2
    shape = (number(draw, few, 6), number(draw, few, 4), *spatial)
    x = VALUES[one_of(draw, VALUES)](torch.randn(shape, dtype=torch.float64))
    return arranged(x.to(dtype), one_of(draw, LAYOUTS))


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values with other strides."""
    if layout == "channels_last" and x.dim() > 3:
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "every other":
        return x.repeat_interleave(2, 0)[::2]
    return x.contiguous()


@st.composite
def layers(draw: st.DrawFn, kind: type[nn.Module], x: Tensor) -> nn.Module:
    """A layer for ``x`` with settings and parameters of any kind."""
    arguments: dict[str, Any] = {"n_components": number(draw, 1, 4)}
    if kind is MixtureNorm:
        arguments |= {
            "em_iters": number(draw, 1, 4),
            "affine": one_of(draw, ["output", "component", None]),
            "granularity": one_of(draw, ["layer", "channel"]),
            "scale": one_of(draw, ["sqrt", "unit"]),
            "activation": one_of(draw, [None, nn.functional.silu]),
            "queue_rows_per_batch": one_of(draw, [2, 8, None]),
            "refit_iters": number(draw, 1, 4),
        }
    else:
        arguments["affine"] = draw(st.booleans())
    layer = kind(x.shape[1], **arguments)
    torch.manual_seed(number(draw, 0, 99))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        if kind is not MixtureNorm and draw(st.booleans()):  # soft gates for any size of x
            layer.gate.weight.div_(1 + float(x.abs().max()))
    return layer


def formats(x: Tensor) -> set[torch.memory_format]:
    """The memory formats that ``x`` is in: none, one, or both where a dimension has one element."""
    possible = [torch.contiguous_format]
    if x.dim() > 3:
        possible.append(torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    return {memory_format for memory_format in possible if x.is_contiguous(memory_format=memory_format)}


def shaken(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Inputs that differ from ``x`` by the rounding of its largest value: all alike, by channel, and each its way."""
    size = torch.finfo(dtype).eps * x.abs().max()
    channel = torch.arange(x.shape[1]).view(-1, *[1] * (x.dim() - 2))
    random = torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0))
    signs = [torch.zeros_like(random), channel.expand_as(x), torch.arange(x.numel()).view(x.shape), random]
    return [x + size * (sign % 2 * 2 - 1) for sign in signs]


def reweighted(x: Tensor, mixture: Mixture, eps: float, dtype: torch.dtype) -> list[Mixture]:
    """Mixtures whose densities differ by the rounding of the largest term x²/σ² in their logarithms.

    The package expands (x - μ)² / σ², as gmm.py says. Empty if nothing is left of the densities.
    """
    weights, means, variances = (value.double() for value in mixture)
    per_channel = weights if weights.dim() > 1 else weights.unsqueeze(-1)
    distance = (x.movedim(1, -1).flatten(0, -2) - (per_channel * means).sum(0)).square().amax(0)
    terms = distance / (variances + eps)
    rounding = 4 * torch.finfo(dtype).eps * (terms.max() if weights.dim() > 1 else terms.sum(-1).max())
    if rounding > 1:
        return []
    shifts = rounding * torch.eye(len(weights), dtype=torch.float64)
    return [Mixture(weights * shift.exp().view(-1, *[1] * (weights.dim() - 1)), means, variances) for shift in shifts]


def not_finite(found: Tensor, expected: Tensor) -> bool:
    """Whether ``found`` is not finite where ``expected`` is within its dtype.

    Where ``expected`` is NaN, as for a mode that nothing uses, any number is right, and it may be beyond float16.
    """
    if expected.isnan().any():
        event("the formula is NaN")
        return bool((found.isnan() if found.dtype == torch.float16 else ~found.isfinite()).any())
    return not found[expected.abs() < 0.99 * torch.finfo(found.dtype).max].isfinite().all()


def far_off(found: Tensor, expected: Tensor, near: Callable[[], list[Tensor]], dtype: torch.dtype) -> str:
    """How ``found`` differs from ``expected``, in float64, by more than rounding does; empty if it does not.

    ``dtype`` is that of the computation. Where rows lie between components, or are far from zero and near to each
    other, the formula's own changes tell what rounding does: ``near`` are its values with the last digits changed.
    """
    if not_finite(found, expected):
        return "not finite"
    fits = expected.abs() < 0.99 * torch.finfo(found.dtype).max
    base = 1e-8 if dtype == torch.float64 else 1e-4
    error = (found.double() - expected).abs() - base - 2 * torch.finfo(found.dtype).eps * expected.abs()
    if not (error[fits] > 0).any():
        return ""
    others = near()
    event("needs a closer look" if others else "beyond the digits of the density")
    if not others:
        return ""
    spread = torch.stack([other - expected for other in others]).abs()
    around = [dim for dim in range(spread.dim()) if dim != 2]  # by channel
    error -= 16 * spread.amax(around, keepdim=True)[0]
    return f"off by {error[fits].max():.3g}" if (error[fits] > 0).any() else ""
