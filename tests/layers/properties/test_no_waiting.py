"""A step never waits for the device: no number of an activation is looked at by the CPU."""

from collections.abc import Callable

import pytest
import torch
from helpers.layers import Case, assert_same, outcome, some_input
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

FORMATS = [torch.contiguous_format, torch.channels_last]


def steps(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    layer.train()
    layer(x).backward(torch.ones_like(x))
    with torch.no_grad():
        layer.eval()
        y: torch.Tensor = layer(x)
    return y


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_tensors_without_values(case: Case, memory_format: torch.memory_format) -> None:
    """On the device ``meta`` there is nothing to be looked at: it raises."""
    layer = case.make(8).to("meta")
    x = torch.empty(8, 8, 4, 4, device="meta", requires_grad=True)
    y = steps(layer, x.contiguous(memory_format=memory_format))
    assert y.shape == x.shape
    assert all(p.grad is not None for p in layer.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):
        y.sum().item()


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4), (8, 3, 4, 2)])
def test_fake_tensors(case: Case, shape: tuple[int, ...]) -> None:
    """A fake tensor has no value to read or to branch on."""
    layer = case.make()
    mode = FakeTensorMode()
    state = {key: mode.from_tensor(value) for key, value in (*layer.named_parameters(), *layer.named_buffers())}
    with mode:
        for training in (True, True, False):
            layer.train(training)
            x = torch.randn(shape, requires_grad=True)
            y = torch.func.functional_call(layer, state, (x,))
            assert y.shape == shape
            y.sum().backward()
            assert x.grad.shape == shape
        with pytest.raises(Exception, match=r"_local_scalar_dense|data-dependent"):
            y.sum().item()  # this is what a synchronization would have raised


@pytest.fixture
def no_waiting() -> Callable[[Callable[[], object]], None]:
    def call(function: Callable[[], object]) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return call


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_gpu(case: Case, memory_format: torch.memory_format, no_waiting: Callable[..., None]) -> None:
    layer = case.make(8).to("cuda")
    x = torch.randn(8, 8, 4, 4).to("cuda").contiguous(memory_format=memory_format).requires_grad_()
    steps(layer, x)  # libraries are loaded
    no_waiting(lambda: steps(layer, x))


@pytest.mark.gpu
def test_waiting_is_seen(no_waiting: Callable[..., None]) -> None:
    x = torch.zeros(1, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"):
        no_waiting(lambda: x.item())


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_gpu_and_cpu_agree(case: Case, memory_format: torch.memory_format) -> None:
    layer = case.make(8).double()
    x = some_input((8, 8, 4, 4), torch.float64).contiguous(memory_format=memory_format)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    results = []
    for device in ("cpu", "cuda"):
        layer.load_state_dict(state)
        layer.to(device).train()
        found = {name: value.cpu() for name, value in outcome(layer, x.to(device)).items()}
        found["evaluated"] = layer.eval()(x.to(device)).detach().cpu()
        results.append(found)
    assert_same(results[1], results[0], 1e-9)
