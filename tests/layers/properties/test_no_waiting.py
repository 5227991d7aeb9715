"""A step never waits for the device: no number of an activation is looked at by the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "MixtureNorm": lambda: MixtureNorm(8, n_components=3, em_iters=4),
    "MixtureNorm, ReLU inside": lambda: MixtureNorm(8, n_components=3, activation=nn.ReLU()),
    "MixtureNorm, per channel": lambda: MixtureNorm(8, n_components=3, granularity="channel"),
    "MixtureNorm, part of the rows": lambda: MixtureNorm(8, n_components=3, fit_rows=32),
    "ModeNorm": lambda: ModeNorm(8, n_components=2),
    "ModeGroupNorm": lambda: ModeGroupNorm(8, n_components=2),
}
FORMATS = [torch.contiguous_format, torch.channels_last]


def steps(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    layer.train()
    layer(x).backward(torch.ones_like(x))
    with torch.no_grad():
        layer.eval()
        y: torch.Tensor = layer(x)
    return y


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_tensors_without_values(name: str, memory_format: torch.memory_format) -> None:
    """On the device ``meta`` there is nothing to be looked at: it raises."""
    layer = LAYERS[name]().to("meta")
    x = torch.empty(8, 8, 4, 4, device="meta", requires_grad=True)
    y = steps(layer, x.contiguous(memory_format=memory_format))
    assert y.shape == x.shape
    assert all(p.grad is not None for p in layer.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):
        y.sum().item()


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_gpu(name: str, memory_format: torch.memory_format) -> None:
    layer = LAYERS[name]().to("cuda")
    x = torch.randn(8, 8, 4, 4).to("cuda").contiguous(memory_format=memory_format).requires_grad_()
    steps(layer, x)  # libraries are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps(layer, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_gpu_and_cpu_agree(name: str, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    x = torch.randn(8, 8, 4, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    results = []
    for device in ("cpu", "cuda"):
        layer.load_state_dict(state)
        given = x.detach().to(device).requires_grad_()  # of its own: on the CPU, x.to() would be x
        y = steps(layer.to(device), given)
        assert given.grad is not None
        results.append((y.cpu(), given.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
