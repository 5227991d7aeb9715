"""What a GPU has to show: the CPU's results, no waiting, mixed precision, compilation, whole trainings, FID."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.tiny_generator import Generator, fid, loader
from lightning.pytorch import Trainer
from torch import Tensor, nn

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.callbacks import MixtureMonitor, NormSwapCallback
from mn_lightning.kernels import select

pytestmark = pytest.mark.gpu

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "MixtureNorm": lambda: MixtureNorm(8, n_components=3, em_iters=4),
    "MixtureNorm, ReLU inside": lambda: MixtureNorm(8, n_components=3, activation=nn.ReLU()),
    "MixtureNorm, part of the rows": lambda: MixtureNorm(8, n_components=3, fit_rows=32),
    "ModeNorm": lambda: ModeNorm(8, n_components=2),
    "ModeGroupNorm": lambda: ModeGroupNorm(8, n_components=2),
}
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(params=["reference", "triton"], autouse=True)
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    with select.use(request.param):
        yield


def step(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients, and output in evaluation."""
    x = x.detach().requires_grad_()
    y = layer.train()(x)
    grads = torch.autograd.grad(y.float().sin().sum(), (x, *layer.parameters()))
    with torch.no_grad():
        return [y, *grads, layer.eval()(x)]


def inputs(memory_format: torch.memory_format) -> Tensor:
    x = torch.randn(16, 8, 6, 6) + 3 * torch.randint(2, (16, 1, 6, 6))
    return x.contiguous(memory_format=memory_format)


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(actual, expected, strict=True):
        scale = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a.detach().float().cpu(), b.detach().float().cpu(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_as_on_the_cpu(name: str, memory_format: torch.memory_format) -> None:
    layer, x = LAYERS[name](), inputs(memory_format)
    on_gpu = copy.deepcopy(layer).to("cuda")
    results = step(on_gpu, x.to("cuda"))
    assert results[0].is_contiguous(memory_format=memory_format)
    assert_close(results, step(layer, x), 1e-4)
    for (key, value), other in zip(on_gpu.named_buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(value.cpu(), other, rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_no_waiting(name: str, memory_format: torch.memory_format) -> None:
    layer, x = LAYERS[name]().to("cuda"), inputs(memory_format).to("cuda")
    step(layer, x)  # kernels are compiled, libraries loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(layer, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_mixed_precision(name: str, dtype: torch.dtype) -> None:
    """Of a network with convolutions around the layer; what the layer gets is rounded, what it computes is not."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), LAYERS[name](), nn.Conv2d(8, 4, 3)).to("cuda")
    seen: list[torch.dtype] = []
    network[1].register_forward_hook(lambda _, given, y: seen.extend((given[0].dtype, y.dtype)))
    with torch.autocast("cuda", dtype=dtype):
        loss = network(torch.randn(8, 3, 6, 6, device="cuda")).float().square().mean()
    loss.backward()
    assert seen == [dtype, dtype]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MixtureNorm", "ModeNorm"])
def test_compiled(name: str) -> None:
    layer, x = LAYERS[name]().to("cuda"), inputs(torch.contiguous_format).to("cuda")
    compiled = copy.deepcopy(layer)
    compiled.compile()
    assert_close(step(compiled, x), step(layer, x), 1e-3)


def test_a_training_with_all_callbacks(tmp_path: Path) -> None:
    model = tiny.classifier()
    callbacks = [*tiny.mixture_callbacks(), MixtureMonitor()]
    trainer = tiny.trainer(tmp_path, callbacks, accelerator="gpu", devices=1)
    trainer.fit(model, tiny.digits())
    (metrics,) = trainer.validate(model, tiny.digits(), verbose=False)
    assert metrics["val_acc"] > 0.3
    assert not any(layer.stale for layer in tiny.mixtures(model))


def test_a_training_with_modes(tmp_path: Path) -> None:
    model = tiny.classifier()
    trainer: Trainer = tiny.trainer(tmp_path, [NormSwapCallback("all", "mode")], accelerator="gpu", devices=1)
    trainer.fit(model, tiny.digits())
    assert trainer.validate(model, tiny.digits(), verbose=False)[0]["val_acc"] > 0.3


class OnDevice(Generator):
    """Latents are drawn where the network is."""

    def sample(self, n: int) -> Tensor:
        return self.network(torch.randn(n, 4, device=self.device)).tanh().view(n, 1, 8, 8)


def test_frechet_distance(tmp_path: Path) -> None:
    trainer = tiny.trainer(tmp_path, [fid(tmp_path)], accelerator="gpu", devices=1)
    trainer.fit(OnDevice(), loader())
    assert 0 < float(trainer.callback_metrics["fd_features"]) < float("inf")
