"""MixtureNorm against the loops and scikit-learn."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import oracle
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim.swa_utils import AveragedModel, update_bn

from mn_lightning import functional as F
from mn_lightning import gmm
from mn_lightning.functional import Granularity
from mn_lightning.layers import MixtureNorm, ModeNorm
from mn_lightning.layers.update import update_norms
from mn_lightning.utils.random import Stream, uniform

REG = 1e-5
GRANULARITIES: list[Granularity] = ["layer", "channel"]
EXACT = {"queue_decay": 1.0, "queue_rows_per_batch": None, "dtype": torch.float64}


def close(value: Tensor, reference: Tensor | np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(value, torch.as_tensor(reference), rtol=tolerance, atol=tolerance)


def buffers(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer.named_buffers()}


def loops_fit(x: np.ndarray, n_components: int, n_iter: int, step: int) -> oracle.Params:
    draws = uniform(torch.tensor(step), gmm.n_seeding_draws(n_components), Stream.KMEANS).double().numpy()
    weights, means, variances = oracle.fit(x - x.mean(0), n_components, n_iter, draws, REG)
    return weights, means + x.mean(0), variances


def by_granularity(
    fit: Callable[[np.ndarray], oracle.Params], x: np.ndarray, granularity: Granularity
) -> oracle.Params:
    """Parameters as the layer stores them."""
    if granularity == "layer":
        return fit(x)
    columns = [fit(x[:, c : c + 1]) for c in range(x.shape[1])]
    weights = np.stack([weights for weights, _, _ in columns], axis=1)
    return weights, *(np.concatenate([column[i] for column in columns], axis=1) for i in (1, 2))


def three_blobs(rows: int, seed: int, scale: float = 1.0) -> tuple[np.ndarray, oracle.Params]:
    """Rows of a mixture whose components are many standard deviations apart, and that mixture."""
    rng = np.random.default_rng(seed)
    weights = np.array([0.5, 0.3, 0.2])
    means = scale * np.array([[-8.0, 0.0, 3.0], [0.0, 8.0, -6.0], [9.0, -7.0, 15.0]])
    variances = scale**2 * np.array([[1.0, 0.5, 0.8], [0.3, 1.0, 1.5], [0.6, 0.4, 1.0]])
    label = rng.choice(3, rows, p=weights)
    return means[label] + np.sqrt(variances[label]) * rng.standard_normal((rows, 3)), (weights, means, variances)


def score(x: np.ndarray, params: oracle.Params) -> float:
    """scikit-learn's mean log-likelihood of ``x`` under ``params``."""
    alive = params[0] > 0
    model = GaussianMixture(int(alive.sum()), covariance_type="diag")
    model.weights_, model.means_ = params[0][alive], params[1][alive]
    model.covariances_ = params[2][alive] + REG
    model.precisions_cholesky_ = model.covariances_**-0.5
    return float(model.score(x))


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("affine", ["output", "component", None])
@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("activation", [None, relu])
def test_training_against_the_loops(
    n_components: int,
    affine: str | None,
    granularity: Granularity,
    activation: Callable[[Tensor], Tensor] | None,
) -> None:
    """Fit and normalization of two steps in a row; the second is to take other random numbers."""
    layer = MixtureNorm(
        2, n_components, 3, eps=REG, affine=affine, granularity=granularity, activation=activation, dtype=torch.float64
    )
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -0.7, 0.7)
    for step in (1, 2):
        x = torch.randn(5, 2, 3, dtype=torch.float64) + 3 * torch.randn(5, 1, 1, dtype=torch.float64) + 2
        params = by_granularity(
            lambda rows, step=step: loops_fit(rows, n_components, 3, step), oracle.rows_of(x).numpy(), granularity
        )
        expected = oracle.mixture_norm(
            x,
            params,
            layer.weight if affine == "output" else layer.log_weight.exp() if affine == "component" else None,
            layer.bias,
            training=True,
            eps=REG,
            affine=affine or "output",
            granularity=granularity,
            activation=activation,
        )
        close(layer(x).detach(), expected.detach(), 1e-8)
        assert layer.num_batches_tracked == step


@pytest.mark.parametrize("layer_class", [MixtureNorm, ModeNorm])
def test_one_component_trains_as_batch_norm_does(layer_class: type[nn.Module]) -> None:
    batch_norm = nn.BatchNorm2d(3).double()
    layer = layer_class(3, n_components=1, dtype=torch.float64)
    models = [nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.ReLU()).double() for norm in (batch_norm, layer)]
    models[1][0].load_state_dict(models[0][0].state_dict())
    x = torch.randn(4, 6, 2, 7, 7, dtype=torch.float64)
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batch in x:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    close(models[1][0].weight.detach(), models[0][0].weight.detach(), 1e-9)
    close(layer.weight.detach(), batch_norm.weight.detach(), 1e-9)
    close(layer.bias.detach(), batch_norm.bias.detach(), 1e-9)


def test_activation_module_is_part_of_the_layer() -> None:
    layer = MixtureNorm(3, activation=nn.PReLU())
    assert "activation.weight" in layer.state_dict()
    layer(torch.randn(20, 3)).sum().backward()
    assert layer.activation.weight.grad.abs() > 0
    assert "PReLU" in repr(layer)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_too_few_rows_are_refused_before_they_are_queued(shape: tuple[int, ...]) -> None:
    layer = MixtureNorm(3)
    layer(torch.randn(8, 3))
    layer.refit()
    before = buffers(layer)
    with pytest.raises(ValueError, match="more than one value per channel") as error:
        layer(torch.zeros(shape))
    assert "\n" not in str(error.value)
    assert str(shape) in str(error.value)
    before.pop("num_batches_tracked")  # BatchNorm counts it too
    after = buffers(layer)
    assert all(torch.equal(after[name], value) for name, value in before.items())


# --- refit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("refit_iters", "iterations"), [(5, 5), (None, 3)])
def test_refit_against_the_loops(refit_iters: int | None, iterations: int, granularity: Granularity) -> None:
    options: dict[str, Any] = {"granularity": granularity, "queue_rows_per_batch": None, "dtype": torch.float64}
    layer = MixtureNorm(2, 4, em_iters=3, refit_iters=refit_iters, **options)
    for _ in range(3):
        layer(torch.randn(8, 2, 2, dtype=torch.float64) + 4 * torch.randn(8, 1, 1, dtype=torch.float64))
    step = layer.num_batches_tracked
    rows = layer.queue.draw(0.9, step).numpy()
    assert len(rows) == 16 + 14 + 13
    assert layer.refit()
    expected = by_granularity(
        lambda one: oracle.moments(one, loops_fit(one, 4, iterations, int(step)), REG, 0.01), rows, granularity
    )
    for value, reference in zip(layer.mixture, expected, strict=True):
        close(value, reference, 1e-8)
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    close(layer.eval()(x).detach(), oracle.mixture_norm(x, expected, granularity=granularity), 1e-7)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_refit_against_scikit_learn_from_the_same_start(offset: float) -> None:
    """Storing the moments under the fit's posteriors is one more EM iteration where nothing is pruned."""
    x, _ = three_blobs(600, seed=1, scale=0.2)
    layer = MixtureNorm(3, 4, refit_iters=10, queue_decay=1.0, queue_rows_per_batch=None)
    for batch in torch.from_numpy(x + offset).float().chunk(4):
        layer(batch)
    step = layer.num_batches_tracked
    rows = layer.queue.draw(1.0, step).double().numpy()
    center = rows.mean(0)
    rows = rows - center
    draws = uniform(step, gmm.n_seeding_draws(4), Stream.KMEANS).double().numpy()
    weights, means, variances = oracle.lloyd(rows, oracle.kmeans_plus_plus(rows, 4, draws), 5)
    model = GaussianMixture(
        4,
        covariance_type="diag",
        max_iter=6,
        tol=0.0,
        reg_covar=REG,
        weights_init=weights,
        means_init=means,
        precisions_init=1 / (variances + REG),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    assert model.n_iter_ == 6
    layer.refit()
    assert (layer.mixture_weights > 0).all()
    stored = [p.double().numpy() for p in layer.mixture]
    stored[1] -= center
    assert score(rows, tuple(stored)) == pytest.approx(model.score(rows), abs=1e-4)


@pytest.mark.parametrize("shape", [(200, 3), (8, 3, 25), (8, 3, 5, 5)])
def test_refit_finds_the_mixture_that_the_batches_come_from(shape: tuple[int, ...]) -> None:
    layer = MixtureNorm(3)
    for batch in range(20):
        x, _ = three_blobs(200, seed=batch)
        layer(oracle.unrows(torch.from_numpy(x).float(), torch.empty(shape)))
    assert layer.refit()
    x, truth = three_blobs(2000, seed=99)
    order = layer.mixture_means[:, 0].argsort()
    weights, means, variances = (p[order].double().numpy() for p in layer.mixture)
    # 1,800 rows: these are five standard errors or more.
    np.testing.assert_allclose(weights, truth[0], atol=0.06)
    np.testing.assert_allclose(means, truth[1], atol=0.3)
    np.testing.assert_allclose(variances, truth[2], rtol=0.4)
    best = GaussianMixture(3, covariance_type="diag", n_init=3, random_state=0).fit(x).score(x)
    assert score(x, (weights, means, variances)) > best - 0.03


def test_recent_batches_count_more() -> None:
    layer = MixtureNorm(3, n_components=1, queue_rows_per_batch=None, dtype=torch.float64)
    values = [1.0, 5.0, -2.0]
    for value in values:
        layer(torch.full((100, 3), value, dtype=torch.float64))
    layer.refit()
    share = np.array([81, 90, 100]) / 271
    close(layer.mixture_means[0], np.full(3, share @ values), 1e-9)
    close(layer.mixture_variances[0], np.full(3, share @ np.square(values) - (share @ values) ** 2), 1e-9)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_component_of_a_few_outliers_is_stored_with_weight_zero(granularity: Granularity) -> None:
    layer = MixtureNorm(2, 3, granularity=granularity, **EXACT)
    x = torch.randn(400, 2, dtype=torch.float64)
    x[:200] += 8
    x[-2:] = 300.0  # 0.5% of the rows, far enough to be chosen as a centre
    layer(x)
    layer.refit()
    assert ((layer.mixture_weights == 0).sum(0) == 1).all()
    close(layer.mixture_weights.sum(0), torch.ones_like(layer.mixture_weights.sum(0)), 1e-12)
    assert all(p.isfinite().all() for p in layer.mixture)
    params = tuple(p.numpy() for p in layer.mixture)
    near = x[195:215]
    close(layer.eval()(near).detach(), oracle.mixture_norm(near, params, granularity=granularity), 1e-8)
    y = layer(x)
    assert y.isfinite().all()


def test_refit_on_an_empty_queue_leaves_the_mixture() -> None:
    layer = MixtureNorm(3)
    for _ in range(2):
        before = buffers(layer)
        assert layer.refit() is False
        assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
        layer(torch.randn(20, 3))
        assert layer.refit() is True
        assert not torch.equal(layer.mixture_means, before["mixture_means"])
        layer.reset_queue()


def test_stale_from_a_batch_to_the_next_refit() -> None:
    layer = MixtureNorm(3)
    assert not layer.stale
    layer.eval()(torch.randn(20, 3))
    assert not layer.stale
    layer.train()(torch.randn(20, 3))
    assert layer.stale
    layer.refit()
    assert not layer.stale
    layer(torch.randn(20, 3))
    assert layer.stale
    mixture = [p.clone() for p in layer.mixture]
    layer.reset_queue()
    assert not layer.stale
    assert all(torch.equal(a, b) for a, b in zip(layer.mixture, mixture, strict=True))
    assert layer.refit() is False


@pytest.mark.parametrize("rows_per_batch", ["auto", None])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [(0, 0, 0), (5, 2, 3), (2, 1, 1)])
def test_a_batch_that_is_not_finite_leaves_queue_and_mixture(
    place: tuple[int, ...], value: float, granularity: Granularity, rows_per_batch: str | None
) -> None:
    layer = MixtureNorm(3, granularity=granularity, queue_rows_per_batch=rows_per_batch)
    bad = torch.randn(6, 3, 4)
    bad[place] = value
    layer(bad)
    assert not layer.stale
    assert layer.refit() is False
    layer(torch.randn(6, 3, 4))
    layer.refit()
    layer(torch.randn(6, 3, 4))
    before = buffers(layer)
    layer(bad)
    after = buffers(layer)
    assert after.pop("num_batches_tracked") == before.pop("num_batches_tracked") + 1
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert layer.refit()
    assert all(p.isfinite().all() for p in layer.mixture)
    assert layer.eval()(torch.randn(6, 3, 4)).isfinite().all()


def test_evaluation_by_a_stale_mixture_warns_once() -> None:
    layers = nn.Sequential(MixtureNorm(2), MixtureNorm(2))
    x = torch.randn(20, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers.eval()(x)  # as it was made
        layers.train()(x)
        for layer in layers:
            layer.refit()
        layers.eval()(x)
        layers.train()(x)
        for layer in layers:
            layer.reset_queue()  # nothing is left that a refit could bring
        layers.eval()(x)
        layers.train()(torch.full_like(x, torch.nan))  # not queued
        layers.eval()(x)
    layers.train()(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            layers.eval()(x)
            layers.train()(x)
    assert len(caught) == 1
    assert "refit_mixtures(model)" in str(caught[0].message)


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_an_average_of_weights_says_that_its_mixture_is_stale(evaluated_before: bool) -> None:
    """``update_bn`` finds no BatchNorm in it and does nothing; the evaluation that follows must not pass in silence."""
    model = nn.Sequential(nn.Linear(2, 4), MixtureNorm(4))
    x = torch.randn(20, 2)
    if evaluated_before:
        model.eval()(x)
    average = AveragedModel(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average.eval()(x)
    for _ in range(3):
        model.train()(x)
        average.update_parameters(model)
    update_bn([x], average)
    average.eval()
    with pytest.warns(UserWarning, match=r"update_norms\(average, batches\)"):
        average(x)
    update_norms(average, [x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average(x)


def test_refit_needs_no_graph_and_leaves_none() -> None:
    layer = MixtureNorm(3)
    layer(torch.randn(20, 3, requires_grad=True))
    layer.refit()
    assert not any(b.requires_grad for b in layer.buffers())


@pytest.mark.parametrize("num_features", [128, 2048])
def test_default_queue_is_below_64_megabytes(num_features: int) -> None:
    layer = MixtureNorm(num_features)
    assert sum(b.numel() * b.element_size() for b in layer.queue.buffers()) < 64e6


# --- construction and state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ({"num_features": 0}, "num_features >= 1"),
        ({"n_components": 0}, "n_components >= 1"),
        ({"em_iters": 0}, "em_iters >= 1"),
        ({"queue_size": 0}, "queue_size >= 1"),
        ({"refit_iters": 0}, "refit_iters >= 1"),
        ({"queue_rows_per_batch": 0}, "queue_rows_per_batch >= 1"),
        ({"queue_decay": 0.0}, "0 < queue_decay <= 1"),
        ({"queue_decay": 1.1}, "0 < queue_decay <= 1"),
        ({"queue_decay": float("nan")}, "0 < queue_decay <= 1"),
        ({"min_weight": -0.1}, "0 <= min_weight < 1"),
        ({"min_weight": 1.0}, "0 <= min_weight < 1"),
        ({"affine": "input"}, "'output', 'component'"),
        ({"affine": True}, "'output', 'component'"),
        ({"granularity": "pixel"}, "'layer', 'channel'"),
        ({"scale": "none"}, "'sqrt', 'unit'"),
        ({"queue_rows_per_batch": "all"}, "queue_rows_per_batch"),
        ({"n_components": True}, "n_components >= 1, a whole number"),
        ({"n_components": 2.5}, "n_components >= 1, a whole number"),
        ({"em_iters": 1.5}, "em_iters >= 1, a whole number"),
        ({"refit_iters": "x"}, "refit_iters >= 1, a whole number"),
        ({"fit_rows": 2048.5}, "fit_rows >= 3, a whole number"),
        ({"queue_decay": "x"}, "0 < queue_decay <= 1"),
        ({"min_weight": "x"}, "0 <= min_weight < 1"),
        ({"eps": -1}, "eps >= 0"),
        ({"eps": float("nan")}, "eps >= 0"),
        ({"eps": float("inf")}, "eps >= 0"),
        ({"eps": "x"}, "eps >= 0"),
        ({"eps": True}, "eps >= 0"),
        ({"sync": "x"}, "True or False"),
        ({"sync": 1}, "True or False"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], accepted: str) -> None:
    with pytest.raises(ValueError, match="it takes") as error:
        MixtureNorm(**({"num_features": 3} | arguments))
    message = str(error.value)
    (given,) = arguments.items()
    assert "\n" not in message
    assert message.startswith(f"MixtureNorm got {given[0]}={given[1]!r}")
    assert accepted in message


def test_limits_of_the_arguments_are_accepted() -> None:
    layer = MixtureNorm(
        1, 1, 1, queue_size=1, queue_decay=1, queue_rows_per_batch=2, refit_iters=1, min_weight=0, affine=None
    )
    for _ in range(3):
        assert layer(torch.randn(5, 1)).isfinite().all()
    assert layer.refit()
    assert layer.eval()(torch.randn(5, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("affine", "parameters"), [("output", ["weight", "bias"]), ("component", ["log_weight", "bias"]), (None, [])]
)
def test_state_dict_keys(affine: Any, parameters: list[str]) -> None:
    layer = MixtureNorm(3, affine=affine)
    assert [name for name, _ in layer.named_parameters()] == parameters
    stored = ["mixture_weights", "mixture_means", "mixture_variances", "num_batches_tracked"]
    assert list(layer.state_dict()) == parameters + stored


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("affine", ["output", "component", None])
def test_state_dict_round_trip(affine: Any, granularity: Granularity) -> None:
    options = {"affine": affine, "granularity": granularity}
    layer, fresh = MixtureNorm(3, **options), MixtureNorm(3, **options)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    for _ in range(3):
        layer(torch.randn(20, 3, 2) * 3 + 1)
    layer.refit()
    fresh(torch.randn(20, 3))
    assert fresh.stale
    fresh.load_state_dict(layer.state_dict())
    # What was queued came from other weights.
    assert not fresh.stale
    assert fresh.refit() is False
    x = torch.randn(10, 3, 2)
    assert torch.equal(fresh.eval()(x), layer.eval()(x))
    # The same random numbers as an uninterrupted run.
    assert torch.equal(fresh.train()(x), layer.train()(x))


def test_state_dict_of_another_number_of_components_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for mixture_weights"):
        MixtureNorm(3, 2).load_state_dict(MixtureNorm(3, 4).state_dict())


def test_reset_parameters_goes_back_to_the_start() -> None:
    for affine in ("output", "component", None):
        layer = MixtureNorm(3, affine=affine)
        start = copy.deepcopy(layer.state_dict())
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 2, 3)
        layer(torch.randn(20, 3))
        layer.refit()
        layer.reset_parameters()
        assert all(torch.equal(value, start[name]) for name, value in layer.state_dict().items())
        assert layer.refit() is False


def test_repr() -> None:
    text = repr(MixtureNorm(3, 4, 6, granularity="channel", affine=None, scale="unit"))
    first = text.splitlines()[1]
    assert first.strip() == (
        "3, n_components=4, em_iters=6, eps=1e-05, affine=None, granularity='channel', scale='unit'"
    )
    default = repr(MixtureNorm(3)).splitlines()[1]
    assert default.strip() == "3, n_components=3, em_iters=2, eps=1e-05"


def test_fit_rows_changes_the_fit_and_neither_the_rows_normalized_nor_what_is_queued() -> None:
    x = torch.randn(64, 3, 4, 4) + 3 * (torch.arange(64) % 2).reshape(-1, 1, 1, 1)
    some, whole = (MixtureNorm(3, n_components=2, em_iters=2, fit_rows=rows) for rows in (50, None))
    y = some(x)
    expected = F.mixture_norm(x, F.fit_mixture(x, 2, 2, torch.tensor(1), fit_rows=50), some.weight, some.bias, True)
    close(y, expected, 1e-6)
    assert not torch.allclose(y, whole(x), atol=1e-4)
    assert torch.equal(some.queue.rows, whole.queue.rows)


def test_fit_rows_keeps_a_batch_out_of_the_queue_whose_other_rows_are_not_finite() -> None:
    layer = MixtureNorm(3, fit_rows=50)
    x = torch.randn(64, 3, 4, 4)
    for row in range(64):
        bad = x.clone()
        bad[row, 1, 2, 3] = torch.inf
        layer(bad)
    assert not layer.stale
    layer(x)
    assert layer.stale


@pytest.mark.parametrize("value", [0, 2, -5, "many"])
def test_fit_rows_that_cannot_be(value: object) -> None:
    with pytest.raises(ValueError, match=r"MixtureNorm got fit_rows=.*; it takes fit_rows >= 3.*, None"):
        MixtureNorm(4, n_components=3, fit_rows=value)  # type: ignore[arg-type]
