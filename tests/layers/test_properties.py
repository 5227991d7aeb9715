"""What holds for any shape, dtype, number of components, memory format and values.

200 generated cases; ``HYPOTHESIS_PROFILE=nightly`` makes them 2,000.
"""

import os
from typing import Any

import oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning import functional as F

settings.register_profile("ci", max_examples=100, derandomize=True, deadline=None, database=None)
settings.register_profile("nightly", max_examples=1000, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
VALUES = ["normal", "constant", "two points", "one outlier", "far from zero", "tiny", "a dead channel"]


@st.composite
def layers(draw: st.DrawFn, channels: int) -> nn.Module:
    """One of the three layers, with settings and affine parameters of any kind."""
    kind = draw(st.sampled_from([MixtureNorm, ModeNorm, ModeGroupNorm]))
    arguments: dict[str, Any] = {"n_components": draw(st.integers(1, 5))}
    if kind is MixtureNorm:
        arguments |= {
            "em_iters": draw(st.integers(1, 4)),
            "affine": draw(st.sampled_from(["output", "component", None])),
            "granularity": draw(st.sampled_from(["layer", "channel"])),
            "scale": draw(st.sampled_from(["sqrt", "unit"])),
            "queue_rows_per_batch": draw(st.sampled_from([1, 8, None])),
            "refit_iters": 4,
        }
    else:
        arguments["affine"] = draw(st.booleans())
    layer = kind(channels, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return layer


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    """Float64 values of any shape that has more than one value for each channel and each sample."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    x = torch.randn(draw(st.integers(2, 6)), draw(st.integers(2, 5)), *spatial, dtype=torch.float64)
    match draw(st.sampled_from(VALUES)):
        case "constant":
            x = torch.full_like(x, 3.7)
        case "two points":
            x = (x > 0).double() * 6 - 2
        case "one outlier":
            x[0, 0] = 10  # evaluated with the variance of other rows, more is beyond float16
        case "far from zero":
            x += 100
        case "tiny":
            x *= 1e-4
        case "a dead channel":
            x[:, 0] = 0
    if x.dim() > 3 and draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    return x


def layout(x: Tensor) -> list[int]:
    """Strides, but for dimensions of one element, whose strides mean nothing."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


@given(st.data(), st.sampled_from(DTYPES))
def test_nothing_is_ever_not_finite(data: st.DataObject, dtype: torch.dtype) -> None:
    x = data.draw(batches()).to(dtype)
    layer = data.draw(layers(x.shape[1])).to(dtype)
    outputs = []
    for _ in range(2):
        given_x = x.clone().requires_grad_()
        y = layer(given_x)
        y.backward(torch.randn(y.shape).to(dtype))
        outputs += [y, given_x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]
    if isinstance(layer, MixtureNorm):
        assert layer.refit()
    evaluated = layer.eval()(x)
    for value in (*outputs, evaluated, *layer.buffers()):
        assert value.isfinite().all()
    for y in (outputs[0], evaluated):
        assert (y.shape, y.dtype, layout(y)) == (x.shape, x.dtype, layout(x))


@given(st.data(), st.sampled_from([torch.float32, torch.float64]))
def test_the_plain_formulas_in_float64(data: st.DataObject, dtype: torch.dtype) -> None:
    x = data.draw(batches())
    layer = data.draw(layers(x.shape[1])).to(dtype)
    x = x.to(dtype)
    y = layer(x).detach().double()
    weight, bias = (None if p is None else p.detach().double() for p in (layer.weight, layer.bias))
    if isinstance(layer, MixtureNorm):
        options = {"eps": layer.eps, "granularity": layer.granularity}
        step = torch.ones((), dtype=torch.long)  # of the layer's first batch
        params = F.fit_mixture(x, layer.n_components, layer.em_iters, step, **options)
        gamma = weight if layer.log_weight is None else layer.log_weight.detach().double().exp()
        expected = oracle.mixture_norm(
            x.double(),
            tuple(value.double().numpy() for value in params),
            gamma,
            bias,
            training=True,
            affine=layer.affine or "output",
            scale=layer.scale,
            **options,
        )
    else:
        gate_weight, gate_bias = (p.detach().double() for p in layer.gate.parameters())
        if isinstance(layer, ModeNorm):
            expected, *_ = oracle.mode_norm(x.double(), gate_weight, gate_bias, None, None, weight, bias, training=True)
        else:
            expected = oracle.mode_group_norm(x.double(), gate_weight[:, 0], gate_bias, weight, bias)
    # Float32 moves the posteriors of rows that lie between components as narrow as eps makes them.
    tolerance = 1e-6 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(y, expected.detach(), rtol=tolerance, atol=tolerance)
