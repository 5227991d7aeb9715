"""Every kernel against loops in float64. test_triton.py runs this file: in Triton's interpreter, or on a GPU if any."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from torch import Tensor, nn

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm, gmm
from mn_lightning import functional as F
from mn_lightning.functional import fit_mixture, mixture_moments, mixture_norm
from mn_lightning.kernels import select
from mn_lightning.kernels.triton import mixture as triton_mixture
from mn_lightning.kernels.types import Mixture
from mn_lightning.layers.queue import BatchQueue
from mn_lightning.utils.random import Stream, stratified, uniform

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
LAYOUTS = ["NCHW", "NHWC"]
HALF = {torch.bfloat16: 2e-2, torch.float16: 2e-3}
SHAPES = [(3, 5, 3, 3), (4, 3, 2), (9, 4), (2, 3, 2, 2, 2), (2, 1, 3, 5)]


def in_layouts(shapes: Iterable[tuple[int, ...]]) -> list[tuple[tuple[int, ...], str]]:
    """Each shape in each layout in which it differs: rows (N, C) lie in memory in one way."""
    return [(shape, layout) for shape in shapes for layout in LAYOUTS if layout == "NCHW" or len(shape) > 2]


@pytest.fixture(autouse=True, scope="module")
def _language_patched_once() -> Iterator[None]:
    """Once for each launch: the interpreter does it for every function that a kernel calls, half of its time."""
    if DEVICE == "cuda":
        yield
        return
    from triton.runtime import interpreter

    original, launched = interpreter._patch_lang, False

    def patch(function: object) -> Any:
        nonlocal launched
        if launched:
            return None
        scope, launched = original(function), True
        restore = scope.restore

        def end() -> None:
            nonlocal launched
            launched = False
            restore()

        scope.restore = end
        return scope

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interpreter, "_patch_lang", patch)
        yield


@pytest.fixture(autouse=True)
def _triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Computed with triton, and seen to be: a test in which it takes nothing compares the reference."""
    torch.manual_seed(0)
    taken = []
    original = select.gpu_kernels

    def watched(x: Tensor, *args: Any, **options: Any) -> Any:
        kernels = original(x, *args, **options)
        if kernels is not None:
            taken.append(x)
        return kernels

    for module in (F.mixture, F.mode, F.mode_group, gmm.fitting):
        monkeypatch.setattr(module, "gpu_kernels", watched)
    with select.use("triton"):
        yield taken
    assert taken


def laid_out(x: Tensor, layout: str) -> Tensor:
    """In memory as it says: with NHWC, channels come last."""
    return x if layout == "NCHW" else x.movedim(1, -1).contiguous().movedim(-1, 1)


def clusters(*shape: int) -> Tensor:
    """Rows around two centres, on the device."""
    which = torch.randint(2, (shape[0], 1, *shape[2:]))
    return (torch.randn(shape) + 3 * which - 1).to(DEVICE)


def some_mixture(channels: int, components: int = 3) -> Mixture:
    weights = torch.rand(components) + 0.5
    return Mixture(
        (weights / weights.sum()).to(DEVICE),
        (2 * torch.randn(components, channels)).to(DEVICE),
        (torch.rand(components, channels) + 0.5).to(DEVICE),
    )


def params(mixture: Mixture) -> oracle.Params:
    return tuple(value.double().cpu().numpy() for value in mixture)  # type: ignore[return-value]


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def wide(x: Tensor) -> Tensor:
    return x.detach().double().cpu().requires_grad_()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(
        actual.detach().double().cpu(), expected.detach(), rtol=tolerance, atol=tolerance * scale, check_stride=False
    )


def compare(
    function: Callable[..., Tensor], expected: Callable[..., Tensor], tensors: list[Tensor], tolerance: float
) -> None:
    """Output and every gradient."""
    ours, theirs = [leaf(t) for t in tensors], [wide(t) for t in tensors]
    y, y_expected = function(*ours), expected(*theirs)
    assert y.dtype == tensors[0].dtype
    assert y.stride() == tensors[0].stride()
    assert_close(y, y_expected, tolerance)
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, ours, dy)
    grads_expected = torch.autograd.grad(y_expected, theirs, dy.double().cpu())
    for grad, grad_expected, tensor in zip(grads, grads_expected, tensors, strict=True):
        assert grad.dtype == tensor.dtype
        assert_close(grad, grad_expected, 4 * tolerance)


# --- fit ----------------------------------------------------------------------------------------------------------


def rows_of(x: Tensor) -> np.ndarray:
    return oracle.rows_of(x.double().cpu()).numpy()


COMPONENTS = {(3, 5, 3, 3): 3, (40, 2): 8, (2, 300, 2): 2, (4, 3, 5): 1}


@pytest.mark.parametrize(("shape", "layout"), in_layouts(COMPONENTS), ids=str)
def test_fit(shape: tuple[int, ...], layout: str) -> None:
    components = COMPONENTS[shape]
    x, step = laid_out(clusters(*shape), layout), torch.tensor(3, device=DEVICE)
    fitted = fit_mixture(x, components, 3, step)
    draws = uniform(step, 100, Stream.KMEANS).double().cpu().numpy()
    expected = oracle.fit(rows_of(x), components, 3, draws, 1e-5)
    for value, value_expected in zip(fitted, expected, strict=True):
        assert_close(value, torch.from_numpy(value_expected), 2e-5)


@pytest.mark.parametrize("fit_rows", [None, 30])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fit_to_some_rows(layout: str, fit_rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than k-means++ looks at; all of them, or a subsample, are fitted to."""
    shape, most = ((20, 2, 8, 7), 1024) if DEVICE == "cuda" else ((4, 2, 5, 7), 64)  # fewer in the interpreter
    monkeypatch.setattr(triton_mixture, "SEED_ROWS", most)
    x, step = laid_out(clusters(*shape), layout), torch.tensor(7, device=DEVICE)
    rows = rows_of(x)
    if fit_rows is not None:
        rows = rows[stratified(step, fit_rows, len(rows), Stream.FIT_ROWS).cpu().numpy()]
    seeds = rows
    if len(rows) > most:
        seeds = rows[(uniform(step, most, Stream.SEED_ROWS).double().cpu().numpy() * len(rows)).astype(int)]
    draws = uniform(step, 100, Stream.KMEANS).double().cpu().numpy()
    expected = oracle.em(rows, oracle.lloyd(rows, oracle.kmeans_plus_plus(seeds, 3, draws), 1), 1, 1e-5)
    for value, value_expected in zip(fit_mixture(x, 3, 2, step, fit_rows=fit_rows), expected, strict=True):
        assert_close(value, torch.from_numpy(value_expected), 2e-5)


def test_more_components_than_distinct_rows() -> None:
    x = torch.tensor([[1.0, 2.0]] * 6 + [[5.0, 1.0]] * 2, device=DEVICE)
    weights, means, variances = fit_mixture(x, 5, 4, torch.tensor(0, device=DEVICE))
    assert weights.sum().item() == pytest.approx(1)
    assert all(any(torch.allclose(mean, row) for row in x) for mean in means)
    assert_close(variances, torch.zeros(5, 2).double(), 1e-6)


def test_lloyd_and_em_of_rows() -> None:
    """Also relative to an origin, and where rows are a view of something larger."""
    x = clusters(3, 7, 6)[:, :, :4].unsqueeze(0)
    origin = torch.randn(1, 1, 4, device=DEVICE)
    centers = x[:, 0, :3] - origin
    clustered = gmm.lloyd(x, centers, 2, origin=origin)
    improved = gmm.em(x, clustered, 2, 1e-5, origin=origin)
    rows = (x - origin).double().cpu().numpy().reshape(-1, 4)
    expected = oracle.lloyd(rows, centers[0].double().cpu().numpy(), 2)
    for found in (clustered, improved):
        for value, value_expected in zip(found, expected, strict=True):
            assert_close(value[0], torch.from_numpy(value_expected), 2e-5)
        expected = oracle.em(rows, expected, 2, 1e-5)


@pytest.mark.parametrize("min_weight", [0.0, 0.01, 0.3])
def test_moments(min_weight: float) -> None:
    x, mixture = clusters(3, 5, 3, 3), some_mixture(5, 4)
    moments = mixture_moments(x, mixture, min_weight=min_weight)
    expected = oracle.moments(rows_of(x), params(mixture), 1e-5, min_weight)
    assert_close(moments.weights, torch.from_numpy(expected[0]), 2e-5)
    alive = expected[0] > 0
    assert min_weight < 0.3 or not alive.all()
    for value, value_expected in zip(moments[1:], expected[1:], strict=True):
        assert_close(value[torch.from_numpy(alive).to(DEVICE)], torch.from_numpy(value_expected[alive]), 2e-5)


# --- mixture normalization ----------------------------------------------------------------------------------------


def compare_mixture_norm(x: Tensor, mixture: Mixture, tolerance: float, **options: Any) -> None:
    channels = x.shape[1]
    weight, bias = torch.rand(channels, device=DEVICE) + 0.5, torch.randn(channels, device=DEVICE)
    compare(
        lambda x, weight, bias: mixture_norm(x, mixture, weight, bias, **options),
        lambda x, weight, bias: oracle.mixture_norm(x, params(mixture), weight, bias, **options),
        [x, weight, bias],
        tolerance,
    )


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("shape", "layout"), in_layouts(SHAPES), ids=str)
def test_mixture_norm(shape: tuple[int, ...], layout: str, training: bool) -> None:
    compare_mixture_norm(laid_out(clusters(*shape), layout), some_mixture(shape[1]), 2e-5, training=training)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixture_norm_types(dtype: torch.dtype, layout: str) -> None:
    x = laid_out(clusters(3, 5, 3, 3).to(dtype), layout)
    compare_mixture_norm(x, some_mixture(5), HALF[dtype], training=True)


ACTIVATIONS = {"ReLU": nn.ReLU(), "relu": torch.relu, "LeakyReLU": nn.LeakyReLU(0.3), "Identity": nn.Identity()}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("affine", ["output", "component"])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_mixture_norm_options(activation: str | None, affine: str, training: bool) -> None:
    scale = "unit" if activation == "LeakyReLU" else "sqrt"
    act = None if activation is None else ACTIVATIONS[activation]
    options = {"activation": act, "affine": affine, "scale": scale}
    compare_mixture_norm(clusters(2, 4, 5), some_mixture(4), 2e-5, training=training, **options)


@pytest.mark.parametrize("components", [1, 2, 16])
def test_mixture_norm_components(components: int) -> None:
    compare_mixture_norm(clusters(2, 3, 4, 4), some_mixture(3, components), 2e-5, training=True)


def test_mixture_norm_drops_components() -> None:
    """Those with few rows, whose rows go to the others, and one that is not in use."""
    mixture = some_mixture(4, 4)._replace(weights=torch.tensor([0.45, 0.0, 0.1, 0.45], device=DEVICE))
    for layout in LAYOUTS:
        compare_mixture_norm(laid_out(clusters(4, 4, 3, 3), layout), mixture, 2e-5, training=True, min_weight=0.25)
    compare_mixture_norm(clusters(4, 4, 3, 3), mixture, 2e-5, training=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixture_norm_many_features(layout: str) -> None:
    """More than a program takes at once, and a number that is no power of 2."""
    compare_mixture_norm(laid_out(clusters(2, 300, 2, 2), layout), some_mixture(300, 2), 2e-5, training=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_one_component_is_batch_norm(training: bool) -> None:
    x = clusters(4, 3, 5, 5)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    one = Mixture(torch.ones(1, device=DEVICE), mean[None], var[None])
    expected = nn.functional.batch_norm(x, mean, var, training=training)
    torch.testing.assert_close(mixture_norm(x, one, training=training), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("near", [True, False])
def test_large_offset(near: bool) -> None:
    """A mixture far from the rows: sums around its means lose all digits, so there has to be another pass."""
    x = (1e4 + clusters(4, 3, 5, 5)).requires_grad_()
    mixture = some_mixture(3, 2)
    if near:
        mixture = mixture._replace(means=mixture.means + 1e4)
    y = mixture_norm(x, mixture, training=True)
    expected_x = wide(x)
    expected = oracle.mixture_norm(expected_x, params(mixture), training=True)
    assert_close(y, expected, 1e-2)
    dy = torch.randn_like(y)
    (grad,) = torch.autograd.grad(y, x, dy)
    (grad_expected,) = torch.autograd.grad(expected, expected_x, dy.double().cpu())
    assert_close(grad, grad_expected, 1e-2)


def test_sliced_and_expanded() -> None:
    """An input that lies in memory with gaps, and a gradient that is one number for all."""
    x, mixture = clusters(3, 8, 4, 4)[:, ::2].requires_grad_(), some_mixture(4)
    y = mixture_norm(x, mixture, training=True)
    expected_x = wide(x)
    expected = oracle.mixture_norm(expected_x, params(mixture), training=True)
    assert_close(y, expected, 2e-5)
    (grad,) = torch.autograd.grad(y.sum(), x)
    (grad_expected,) = torch.autograd.grad(expected.sum(), expected_x)
    assert_close(grad, grad_expected, 1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(value: float) -> None:
    x = clusters(4, 3, 4, 4)
    x[1, 2, 3, 3] = value
    layer = MixtureNorm(3).to(DEVICE)
    layer(x)
    assert not layer.stale
    layer(clusters(4, 3, 4, 4))
    assert layer.stale


# --- modes --------------------------------------------------------------------------------------------------------


def modes(channels: int, n: int) -> list[Tensor]:
    """Gate weight and bias, γ and β."""
    parts = 0.5 * torch.randn(n, channels), torch.randn(n), torch.rand(channels) + 0.5, torch.randn(channels)
    return [part.to(DEVICE) for part in parts]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("shape", "layout"), in_layouts(SHAPES), ids=str)
def test_mode_norm(shape: tuple[int, ...], layout: str, training: bool) -> None:
    x, n = laid_out(clusters(*shape), layout), 3
    running = torch.randn(n, shape[1], device=DEVICE), torch.rand(n, shape[1], device=DEVICE) + 0.5
    updated = [value.clone() for value in running]
    new: list[Tensor] = []

    def expected(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        options = (gamma, beta, training)
        y, *new[:] = oracle.mode_norm(x, weight, bias, *(r.double().cpu() for r in running), *options)
        return y

    compare(
        lambda x, weight, bias, gamma, beta: F.mode_norm(x, weight, bias, *updated, gamma, beta, training),
        expected,
        [x, *modes(shape[1], n)],
        2e-5,
    )
    for value, value_expected in zip(updated, new, strict=True):
        assert_close(value, value_expected, 2e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("norm", ["mode_norm", "mode_group_norm"])
def test_mode_types(norm: str, dtype: torch.dtype) -> None:
    x = clusters(3, 5, 3, 3).to(dtype)
    weight, bias, gamma, beta = modes(5, 2)
    if norm == "mode_norm":
        compare(
            lambda x, w, b, gamma, beta: F.mode_norm(x, w, b, None, None, gamma, beta),
            lambda x, w, b, gamma, beta: oracle.mode_norm(x, w, b, None, None, gamma, beta)[0],
            [x, weight, bias, gamma, beta],
            HALF[dtype],
        )
    else:
        compare(F.mode_group_norm, oracle.mode_group_norm, [x, weight[:, 0].clone(), bias, gamma, beta], HALF[dtype])


@pytest.mark.parametrize(("shape", "layout"), in_layouts([*SHAPES[:4], (2, 300, 2), (2, 3, 17, 9)]), ids=str)
def test_mode_group_norm(shape: tuple[int, ...], layout: str) -> None:
    weight, bias, gamma, beta = modes(shape[1], 3)
    x = laid_out(clusters(*shape), layout)
    compare(F.mode_group_norm, oracle.mode_group_norm, [x, weight[:, 0].clone(), bias, gamma, beta], 2e-5)


@pytest.mark.parametrize("n", [1, 16])
def test_mode_numbers(n: int) -> None:
    weight, bias, gamma, beta = modes(3, n)
    compare(
        lambda x, w, b, gamma, beta: F.mode_norm(x, w, b, None, None, gamma, beta),
        lambda x, w, b, gamma, beta: oracle.mode_norm(x, w, b, None, None, gamma, beta)[0],
        [clusters(20, 3, 2, 3), weight, bias, gamma, beta],
        2e-5,
    )


def test_a_mode_that_no_sample_uses() -> None:
    bias = torch.tensor([0.0, -1e4], device=DEVICE)
    x = clusters(4, 3, 4, 4).requires_grad_()
    y = F.mode_norm(x, torch.zeros(2, 3, device=DEVICE), bias)
    torch.testing.assert_close(y, nn.functional.batch_norm(x, None, None, training=True), rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(y.square().sum(), x)[0].isfinite().all()


def in_pieces(x: Tensor) -> Tensor:
    """The same numbers, with others between them in memory."""
    wider = torch.zeros(*x.shape, 2, device=x.device)
    wider[..., 0] = x
    return wider[..., 0]


def test_parameters_and_running_moments_that_lie_in_pieces() -> None:
    x, learned = clusters(6, 3, 2, 2), modes(3, 2)
    running = torch.randn(2, 3, device=DEVICE), torch.rand(2, 3, device=DEVICE) + 0.5
    views = [in_pieces(value) for value in running]
    expected_y, *expected = oracle.mode_norm(*map(wide, (x, *learned[:2], *running, *learned[2:])), True)
    weight, bias, gamma, beta = map(in_pieces, learned)
    y = F.mode_norm(x, weight, bias, views[0], views[1], gamma, beta, training=True)
    for found, value in zip((y, *views), (expected_y, *expected), strict=True):
        assert_close(found, value, 2e-5)


def test_gradients_of_an_evaluation_do_not_take_later_moments() -> None:
    layer, x = ModeNorm(3, 2).to(DEVICE), clusters(6, 3, 2, 2)
    y = layer.eval()(leaf(x))
    layer.train()(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("norm", [ModeNorm, ModeGroupNorm])
def test_modes_with_a_large_offset(norm: type[nn.Module]) -> None:
    x = 1e4 + clusters(4, 3, 5, 5)
    layer = norm(3, 2).to(DEVICE)
    with select.use("reference"):
        expected = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-2, atol=1e-2)


# --- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_batch", [10, 100, None])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_queue(layout: str, rows_per_batch: int | None) -> None:
    queue = BatchQueue(5, 2, rows_per_batch).to(DEVICE)
    finite = torch.tensor(True, device=DEVICE)
    batches = [laid_out(clusters(3, 5, 3, 3), layout) for _ in range(3)]
    for number, batch in enumerate(batches):
        queue.push(batch, torch.tensor(number, device=DEVICE), finite)
        queue.push(batch + 1, torch.tensor(number, device=DEVICE), ~finite)
    assert int(queue.pushes) == 3
    count = min(27, rows_per_batch or 27)
    assert queue.counts.tolist() == [count, count]
    for slot, number in ((0, 2), (1, 1)):
        rows = torch.from_numpy(rows_of(batches[number])).float()
        if count < 27:
            rows = rows[stratified(torch.tensor(number), count, 27, Stream.QUEUE_ROWS)]
        torch.testing.assert_close(queue.rows[slot, :count].cpu(), rows, rtol=0, atol=0)
    fit_mixture(batches[0], 2, 2, finite.long())  # what the fixture looks for


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "MixtureNorm": lambda: MixtureNorm(5),
    "ReLU inside": lambda: MixtureNorm(5, activation=nn.ReLU(), affine="component", fit_rows=20),
    "ModeNorm": lambda: ModeNorm(5),
    "ModeGroupNorm": lambda: ModeGroupNorm(5),
}


@pytest.mark.parametrize("evaluation", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives(name: str, evaluation: bool) -> None:
    x = clusters(4, 5, 3, 3)
    results = []
    for backend in ("reference", "triton"):
        torch.manual_seed(1)
        layer = LAYERS[name]().to(DEVICE).train(not evaluation)
        given = leaf(x)
        with select.use(backend):  # type: ignore[arg-type]
            y = layer(given).sin().sum()
            (first,) = torch.autograd.grad(y, given, create_graph=True)
            wanted = [given, *layer.parameters()]
            results.append([first, *torch.autograd.grad(first.square().sum(), wanted, allow_unused=True)])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = max(1.0, float(theirs.detach().abs().max()))
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_no_gradients_of_input(name: str) -> None:
    layer = LAYERS[name]().to(DEVICE)
    layer(clusters(4, 5, 3, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch before 2.7 gets torch's operations")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_compiled_as_one_graph(name: str, training: bool) -> None:
    """torch.compile takes each norm as one operation, with what it updates and with its gradients."""
    torch._dynamo.reset()
    layer = LAYERS[name]().to(DEVICE).train(training)
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter)
    other = copy.deepcopy(layer)
    graphs: list[str] = []
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"

    def watched(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(other, fullgraph=True, backend=watched)
    for size in (4, 6):  # the second time with a size that varies
        x = clusters(size, 5, 3, 3)
        given = [leaf(x) for _ in range(2)]
        outputs = layer(given[0]), compiled(given[1])
        for y in outputs:
            y.sin().sum().backward()
        for a, b in zip((outputs[0], given[0].grad), (outputs[1], given[1].grad), strict=True):
            torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(other.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(other.buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert all("mn_lightning" in code for code in graphs)


def test_exported_as_torchs_operations() -> None:
    """What is exported may be run where this package is not."""
    x = clusters(4, 5, 3, 3)
    layer = ModeGroupNorm(5).to(DEVICE)
    expected = layer(x)
    program = torch.export.export(layer, (x,))
    assert "mn_lightning" not in program.graph_module.code
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-5, atol=1e-5)


def test_repeatable() -> None:
    x = clusters(4, 5, 9, 9)
    layer = MixtureNorm(5).to(DEVICE)
    one, other = copy.deepcopy(layer)(x), copy.deepcopy(layer)(x)
    assert torch.equal(one, other)


def test_operations_keep_torchs_rules() -> None:
    """Shapes without values, gradients, and what is written to, are as declared."""
    from mn_lightning.kernels.triton import ops

    x, step = clusters(3, 4, 2, 2), torch.tensor(1, device=DEVICE)
    gamma, beta = (torch.rand(4, device=DEVICE).requires_grad_() for _ in range(2))
    mixture = tuple(fit_mixture(x, 2, 2, step))
    how = (gamma, beta, 1e-5, False, True, None)
    gates = torch.randn(2, 4, device=DEVICE), torch.randn(2, device=DEVICE)
    x = x.requires_grad_()
    queue = torch.zeros(2, 6, 4, device=DEVICE), *torch.zeros(2, 2, dtype=torch.long, device=DEVICE).unbind()
    one, true = torch.ones((), dtype=torch.long, device=DEVICE), torch.tensor(True, device=DEVICE)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operation, args in (
        (ops.fit, (x.detach(), step, 2, 1, 1, 1e-5, None)),
        (ops.moments, (x.detach(), *mixture, 1e-5, 0.01)),
        (ops.mixture_norm_training, (x, *mixture, None, 2, 0, 0, 0.01, *how)),
        (ops.mixture_norm_training, (x, None, None, None, step, 2, 1, 1, 0.01, *how)),
        (ops.mixture_norm_evaluation, (x, *mixture, True, *how)),
        (ops.push, (x.detach(), step, true, one, *queue)),
        (ops.mode_norm, (x, *gates, None, None, gamma, beta, 1e-5, True, 0.1)),
        (ops.mode_norm, (x, *gates, gates[0].clone(), gates[0].exp(), gamma, beta, 1e-5, False, 0.1)),
        (ops.mode_group_norm, (x, gates[1].clone(), gates[1], gamma, beta, 1e-5)),
    ):
        torch.library.opcheck(operation, args, test_utils=checks)
