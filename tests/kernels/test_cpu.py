"""The loops for CPUs: threads, processes, compiling, and what they leave to the reference backend."""

import ctypes
import gc
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.functional import fit_mixture, mixture_norm
from mn_lightning.gmm import kmeans_plus_plus
from mn_lightning.kernels import cpu, kmeans, reference, select
from mn_lightning.kernels.cpu import fitting, mixture, rows, threads
from mn_lightning.kernels.cpu.threads import in_parts
from mn_lightning.kernels.types import Mixture, NormOptions, Ring
from mn_lightning.utils.distributed import Processes
from mn_lightning.utils.random import Stream, stratified, uniform

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "mixture": lambda channels: MixtureNorm(channels, n_components=3, em_iters=3),
    "mixture with activation": lambda channels: MixtureNorm(channels, n_components=3, activation=nn.ReLU()),
    "mode": lambda channels: ModeNorm(channels, 3),
    "mode group": lambda channels: ModeGroupNorm(channels, 3),
}
ALL = pytest.mark.parametrize("name", LAYERS)
FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], dy)
    return [y.detach(), *gradients]


def problem(name: str, memory_format: torch.memory_format) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    x, dy = (torch.randn(24, 6, 5, 7).contiguous(memory_format=memory_format) for _ in range(2))
    return LAYERS[name](6), x + torch.randn(24, 1, 1, 1) * 2, dy


@ALL
@FORMATS
def test_the_number_of_threads_changes_nothing(
    name: str,
    memory_format: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
    small_blocks: None,
    threads_put_back: None,
) -> None:
    monkeypatch.setattr(threads, "SMALLEST", 0)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(step(*problem(name, memory_format)))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@ALL
def test_several_models_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch, small_blocks: None, threads_put_back: None
) -> None:
    monkeypatch.setattr(threads, "SMALLEST", 0)
    torch.set_num_threads(3)
    expected = step(*problem(name, torch.contiguous_format))
    problems = [problem(name, torch.contiguous_format) for _ in range(6)]
    found: dict[int, list[Tensor]] = {}

    def work(i: int) -> None:
        torch.set_num_threads(3)  # torch's number is one for each thread
        found[i] = step(*problems[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for i in range(6):
        assert all(torch.equal(a, b) for a, b in zip(expected, found[i], strict=True))


def test_parts_are_shared_out_and_errors_come_back(monkeypatch: pytest.MonkeyPatch, threads_put_back: None) -> None:
    torch.set_num_threads(4)
    done: list[int] = []
    in_parts(lambda first, last: done.extend(range(first, last)), count=11, size=threads.SMALLEST)
    assert sorted(done) == list(range(11))

    def fail(first: int, last: int) -> None:
        if last == 11:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_parts(fail, count=11, size=threads.SMALLEST)


def _in_child(results: "multiprocessing.Queue[bool]", expected: list[Tensor]) -> None:
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    threads.SMALLEST = 0
    monkey = torch.get_num_threads
    torch.get_num_threads = lambda: 3  # but ours do
    found = step(*problem("mixture", torch.contiguous_format))
    torch.get_num_threads = monkey
    results.put(all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)))


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = step(*problem("mixture", torch.contiguous_format))
    monkeypatch.setattr(threads, "SMALLEST", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    step(*problem("mixture", torch.contiguous_format))  # starts the helpers
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_in_child, args=(results, expected))
    child.start()
    assert results.get(timeout=120)
    child.join(60)


class _Normalized(Dataset[Tensor]):
    def __init__(self) -> None:
        self.layer = ModeNorm(6, 2).eval()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.layer(torch.full((2, 6, 3, 3), float(index)))


@pytest.mark.processes
def test_in_workers_of_a_data_loader() -> None:
    data = _Normalized()
    found = torch.cat(list(DataLoader(data, batch_size=None, num_workers=2)))
    assert torch.equal(found, torch.cat([data[i] for i in range(4)]))


# --- compiling ----------------------------------------------------------------------------------------------------

ONE_STEP = """
import sys, warnings, torch
from mn_lightning import ModeNorm
assert "numba" not in sys.modules
layer, x = ModeNorm(4, 2), torch.randn(8, 4, 3, 3)
layer(x).sum().backward()
layer(x)
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.processes
def test_compiled_once_with_one_line(tmp_path: Path) -> None:
    assert run(ONE_STEP, NUMBA_CACHE_DIR=str(tmp_path)).count("compiles its loops") == 1
    assert list(tmp_path.rglob("*.nbi"))
    assert "compiles" not in run(ONE_STEP, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("writable", [True, False])
def test_where_the_installation_is_read_only(writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache folder is used, or none. A file in a folder's place keeps root from writing, too."""
    installed, cache = tmp_path / "installed", tmp_path / "cache"
    installed.mkdir()
    (installed / "__pycache__").touch()
    if not writable:
        cache.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("LOCALAPPDATA", str(cache))
    path = installed / "read_only_loops.py"
    path.write_text("from mn_lightning.kernels.cpu.compile import loop\n\n@loop\ndef doubled(x):\n    return 2 * x\n")
    spec = importlib.util.spec_from_file_location("read_only_loops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "read_only_loops", module)
    spec.loader.exec_module(module)
    assert module.doubled(3) == 6
    assert bool(list(cache.rglob("read_only_loops*.nbi"))) == writable


@pytest.mark.processes
def test_without_numba_the_reference_serves_with_one_warning() -> None:
    code = ONE_STEP.replace("import sys, warnings, torch", "import sys, warnings, torch\nsys.modules['numba'] = None")
    code = code.replace('assert "numba" not in sys.modules\n', "")
    assert run(code).count("numba cannot be imported") == 1


# --- numbers ------------------------------------------------------------------------------------------------------


def test_the_exponential() -> None:
    from mn_lightning.kernels.cpu.loops.mixture import exponentials

    x = np.concatenate([-np.geomspace(1e-8, 86, 100_000), [0.0]]).astype(np.float32)
    found = x.copy()
    exponentials(found)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=2e-7)
    far = np.array([-200, -np.inf, np.nan], np.float32)
    exponentials(far)
    assert (far < 1e-37).all()


@pytest.mark.parametrize("count", [40, 3 * kmeans.SEED_ROWS])
@pytest.mark.parametrize("in_planes", [True, False])
def test_seeds_are_those_of_the_reference(count: int, in_planes: bool) -> None:
    x = torch.randn(1, 4, 5, count // 4).mT if in_planes else torch.randn(1, 4, count // 4, 5)
    x = x.double() + 7
    given = rows.Rows.of(x)
    assert given.in_planes == in_planes
    for number in range(20):
        step = torch.tensor(number)
        found = fitting.Fitted(4, given)
        found.seed(given, number)
        centers, origin = kmeans.seed_centers(x, 4, step)
        torch.testing.assert_close(torch.from_numpy(found.origin), origin[0, 0])
        torch.testing.assert_close(torch.from_numpy(found.means), (centers + origin)[0])
        if count <= kmeans.SEED_ROWS:
            draws = uniform(step, kmeans.n_seeding_draws(4), Stream.KMEANS)
            torch.testing.assert_close(torch.from_numpy(found.means), kmeans_plus_plus(x.flatten(1, 2), 4, draws)[0])


@pytest.mark.parametrize("step", [0, 1, 12345, 2**31 + 7, 2**40])
@pytest.mark.parametrize(("size", "total"), [(5, 5), (7, 20), (1024, 1025), (1024, 100_000), (3, 2**24 + 5)])
def test_random_numbers_are_those_of_torchs_operations(step: int, size: int, total: int) -> None:
    from mn_lightning.kernels.cpu.loops import random

    loops: Any = random
    for stream in Stream:
        key = loops.key_of(step, int(stream))
        expected = uniform(torch.tensor(step), size, stream)
        assert [float(loops.number(key, i)) for i in range(size)] == expected.tolist()
        places = stratified(torch.tensor(step), size, total, stream)
        assert [loops.place(key, i, size, total) for i in range(size)] == places.tolist()


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("capacity", [5, 96, 200])
@pytest.mark.parametrize("finite", [True, False])
def test_the_queue_keeps_the_rows_of_the_reference(
    memory_format: torch.memory_format, dtype: torch.dtype, capacity: int, finite: bool
) -> None:
    x = torch.randn(6, 5, 4, 4, dtype=dtype).contiguous(memory_format=memory_format)
    found = [Ring(torch.tensor(0), torch.full((3, capacity, 5), -1.0), *torch.zeros(2, 3).long()) for _ in range(2)]
    for step in range(4):
        for backend, ring in zip((cpu, reference), found, strict=True):
            backend.enqueue(x + step, torch.tensor(step), torch.tensor(finite), ring)
    assert int(found[0].pushes) == 4 * finite
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("affine", ["output", "component"])
@pytest.mark.parametrize("scale", ["sqrt", "unit"])
@pytest.mark.parametrize("activation", [None, nn.ReLU()])
def test_maps_of_components_and_their_gradients(affine: Any, scale: Any, activation: Any) -> None:
    """Against autograd through the formulas of the reference."""
    torch.manual_seed(0)
    options = NormOptions(True, 1e-3, affine, scale, activation, 0.01)
    mean, var = torch.randn(3, 4).double(), torch.rand(3, 4).double() + 0.1
    gamma, beta = (torch.rand(1, 1, 4).double() + 0.5).requires_grad_(), torch.randn(1, 1, 4).double().requires_grad_()
    weights = torch.tensor([0.5, 0.5, 0.0]).double()
    maps = mixture._Maps(mean.numpy(), var.numpy(), weights.numpy(), (gamma, beta), options)

    given = [value[None].requires_grad_() for value in (mean, var)]
    slope, level, added = options.maps(*given, gamma, beta)
    factor = options.factor(weights[None])
    if activation is None:
        slope, level = slope * factor[..., None], level * factor[..., None]
    level = level if added is None else level + added
    torch.testing.assert_close(torch.from_numpy(maps.slope), slope[0])
    torch.testing.assert_close(torch.from_numpy(maps.level), level[0])
    d_slope, d_level = torch.randn(2, 3, 4).double()
    expected = torch.autograd.grad([slope, level], [*given, gamma, beta], [d_slope[None], d_level[None]])
    sums = np.stack([d_slope.numpy(), d_level.numpy()])
    by_x, constant, of_parameters = maps.backward(sums, np.array([2.0, 4.0, 0.0]))
    count = np.array([[2.0], [4.0], [0.0]])
    d_mean, d_var = (constant + by_x * mean.numpy()) * count, by_x * count / 2
    for found, wanted in zip((d_mean, d_var), expected, strict=False):
        torch.testing.assert_close(torch.from_numpy(found)[:2], wanted[0, :2])
    assert not by_x[2].any()
    assert not constant[2].any()
    for found, wanted in zip(of_parameters, expected[2:], strict=True):
        torch.testing.assert_close(found, wanted)


@FORMATS
def test_a_mixture_far_from_the_rows(memory_format: torch.memory_format) -> None:
    """Sums around means that are 10,000 standard deviations away would have no digits left."""
    x = torch.randn(64, 5, 4, 4).contiguous(memory_format=memory_format)
    mixture = Mixture(torch.tensor([0.5, 0.5]), torch.full((2, 5), 1e4), torch.ones(2, 5))
    with select.use("cpu"):
        y = mixture_norm(x, mixture, training=True)
    with select.use("reference"):
        expected = mixture_norm(x.double(), Mixture(*(values.double() for values in mixture)), training=True)
    torch.testing.assert_close(y.double(), expected, atol=1e-3, rtol=1e-3)


@ALL
@FORMATS
def test_what_is_not_finite_does_not_stop_it(name: str, memory_format: torch.memory_format) -> None:
    layer, x, _ = problem(name, memory_format)
    x[3, 2, 1, 1], x[5, 1, 2, 2] = float("nan"), float("inf")
    assert layer(x).shape == x.shape
    assert layer.eval()(x).isnan().any()


@ALL
@FORMATS
@pytest.mark.parametrize("training", [True, False])
def test_what_follows_may_write_in_place(name: str, memory_format: torch.memory_format, training: bool) -> None:
    found = []
    for in_place in (True, False):
        layer, x, dy = problem(name, memory_format)
        found.append(step(nn.Sequential(layer, nn.ReLU(inplace=in_place)).train(training), x, dy))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@ALL
def test_gradients_keep_the_memory_format_through_what_writes_in_place(name: str) -> None:
    layer, x, dy = problem(name, torch.channels_last)
    y = layer(x.requires_grad_())
    formats: list[bool] = []
    y.register_hook(lambda gradient: formats.append(gradient.is_contiguous(memory_format=torch.channels_last)))
    torch.relu_(y).backward(dy)
    assert formats == [True]
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


# --- choice of the backend ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "backend"),
    [
        (None, cpu),
        (nn.ReLU(), cpu),
        (nn.LeakyReLU(0.2), cpu),
        (F.relu, cpu),
        (nn.Tanh(), reference),
        (nn.PReLU(), reference),
        (torch.sigmoid, reference),
    ],
)
def test_activations(activation: object, backend: object) -> None:
    assert select.backend_for_mixture(torch.randn(2, 3, 4, 4), activation=activation) is backend


def test_an_activation_with_hooks_is_called() -> None:
    seen: list[object] = []
    activation = nn.ReLU()
    activation.register_forward_hook(lambda *_: seen.append(None))
    layer = MixtureNorm(3, activation=activation)
    layer(torch.randn(8, 3, 4, 4))
    assert seen


def test_what_the_reference_computes() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert select.backend_for_rows(x) is cpu
    assert select.backend_for_rows(x.expand(2, -1, -1, -1)) is reference
    assert select.backend_for_rows(x[:, :0]) is reference
    assert select.backend_for_mixture(x) is cpu
    assert select.backend_for_mixture(x, one_mixture=False) is reference
    assert select.backend_for_mixture(x, processes=Processes(0, 2)) is reference
    assert select.backend_for_samples(x.to("meta")) is reference
    with torch.autograd.forward_ad.dual_level():
        assert select.backend_for_samples(x) is reference
    assert torch.func.vmap(lambda row: torch.tensor(select.backend_for_samples(row) is reference))(x).all()


def test_both_backends_fit_the_same_mixture() -> None:
    x = torch.randn(50, 3, 4, 4, dtype=torch.float64)
    found = []
    for name in ("cpu", "reference"):
        with select.use(name):
            found.append(fit_mixture(x, 3, 6, torch.tensor(0)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mixture", "mode"])
def test_statistics_may_change_between_forward_and_backward(name: str) -> None:
    layer, x, dy = problem(name, torch.contiguous_format)
    layer(x)
    layer.eval()
    found = []
    for changed in (False, True):
        y = layer(x.requires_grad_())
        if changed:
            for buffer in layer.buffers():
                if buffer.is_floating_point():
                    buffer.mul_(3)
        found.append(torch.autograd.grad(y, [x, *layer.parameters()], dy))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@FORMATS
def test_both_backends_fit_to_the_same_rows(memory_format: torch.memory_format) -> None:
    x = torch.randn(50, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    found = []
    for name in ("cpu", "reference"):
        layer = MixtureNorm(3, fit_rows=100).double()
        with select.use(name):
            found.append(layer(x))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found[0], MixtureNorm(3).double()(x))


@FORMATS
@pytest.mark.parametrize("shape", [(200, 6, 5, 7), (2, 70, 20, 20), (40, 1000)])
def test_mode_norm_some_samples_at_a_time(memory_format: torch.memory_format, shape: tuple[int, ...]) -> None:
    """In evaluation, where a part that stays in the cache is many samples, less than one, or what is left."""
    x = torch.randn(shape, dtype=torch.float64) + torch.randn(shape[0], *(1 for _ in shape[1:]))
    x = x.contiguous(memory_format=memory_format) if x.dim() == 4 else x
    layer = ModeNorm(shape[1], 3).double()
    layer(x)
    layer.eval()
    with select.use("reference"):
        expected = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


def test_no_posterior_is_too_small_for_normal_precision() -> None:
    from mn_lightning.kernels.cpu.loops import mixture as loops

    values = np.array([[0.0, 0.0, -500.0], [-60.0, -80.0, -500.0 - 60.0]], np.float32)
    found, one = values.copy(), np.empty(3, np.float32)
    loops.softmax(found, np.zeros(2, np.float32), 3, one, one.copy())
    expected = np.array([[1, 1, 1], [np.exp(-60), 0, np.exp(-60)]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted by Linux")
@ALL
def test_training_keeps_nothing(name: str) -> None:
    layer, x = LAYERS[name](512), torch.randn(256, 512, 2, 2)

    def train(steps: int) -> int:
        for _ in range(steps):
            layer(x.requires_grad_()).sum().backward()
            layer.zero_grad()
            x.grad = None
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    before = train(5)
    assert train(40) - before < 5_000  # KiB; one tensor of samples and channels a step would be 20,000
