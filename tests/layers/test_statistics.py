"""Statistics: in float32 whatever the layer's dtype, kept on request, and in an order that can be averaged."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mn_lightning import MixtureNorm, ModeNorm, refit_mixtures
from mn_lightning.kernels.types import Mixture
from mn_lightning.layers.alignment import aligned


def layers() -> list[nn.Module]:
    return [MixtureNorm(4, n_components=2), ModeNorm(4)]


def statistics(layer: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.clone() for name, value in layer.state_dict().items() if name.startswith(("mixture", "running"))
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("index", [0, 1])
def test_a_cast_leaves_them_in_float32(index: int, dtype: torch.dtype) -> None:
    layer = layers()[index]
    layer(torch.randn(60, 4) * 2000)
    refit_mixtures(layer)
    before = statistics(layer)
    assert max(value.max() for value in before.values()) > 66_000  # more than float16 holds
    layer.to(dtype)
    assert layer.weight.dtype == dtype
    for name, value in statistics(layer).items():
        assert torch.equal(value, before[name])
    y = layer.eval()(torch.randn(60, 4, dtype=dtype) * 700)
    assert y.dtype == dtype
    assert y.isfinite().all()
    layer.double()
    assert all(value.dtype == torch.float64 for value in statistics(layer).values())


@pytest.mark.parametrize("index", [0, 1])
def test_layers_made_in_half_precision_have_them_in_float32(index: int) -> None:
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)  # as Lightning does with precision="16-true"
        layer = layers()[index]
    finally:
        torch.set_default_dtype(default)
    assert layer.weight.dtype == torch.float16
    assert all(value.dtype == torch.float32 for value in statistics(layer).values())


@pytest.mark.parametrize("index", [0, 1])
def test_they_are_kept_on_request(index: int) -> None:
    layer = layers()[index]
    layer(torch.randn(20, 4))
    refit_mixtures(layer)
    before = statistics(layer)
    layer.track_running_stats = False
    x = torch.randn(20, 4) + 3
    y = layer(x)
    assert refit_mixtures(layer) == 0
    assert all(torch.equal(value, before[name]) for name, value in statistics(layer).items())
    assert y.mean().abs() < 0.2  # it normalizes with the batch, as BatchNorm does
    layer.track_running_stats = True
    layer(x)
    refit_mixtures(layer)
    assert any(not torch.equal(value, before[name]) for name, value in statistics(layer).items())


def test_a_refit_that_is_not_finite_is_not_stored() -> None:
    layer = MixtureNorm(2, n_components=2)
    layer(torch.randn(30, 2))
    layer.refit()
    before = statistics(layer)
    layer.queue.rows.mul_(1e30)  # whose squares are not finite
    layer.queue.pushes.add_(1)
    with pytest.warns(UserWarning, match=r"MixtureNorm\(2\) was not refitted, and keeps its mixture") as caught:
        assert not layer.refit()
    assert "\n" not in str(caught[0].message)
    assert all(torch.equal(value, before[name]) for name, value in statistics(layer).items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refit_mixtures(layer) == 0  # once is enough


# --- the order of components --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("per_channel", [False, True])
def test_components_are_brought_into_the_order_of_before(order: tuple[int, ...], per_channel: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[-9.0, 0], [-3, 7], [2, -4], [8, 3]])
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    previous = Mixture(weights[:, None].expand(4, 2) if per_channel else weights, means, torch.rand(4, 2) + 0.5)
    moved = Mixture(previous.weights, means + 0.3 * torch.randn(4, 2, generator=generator), previous.variances)
    shuffled = Mixture(*(value[list(order)] for value in moved))
    for found, expected in zip(aligned(shuffled, previous), moved, strict=True):
        assert torch.equal(found, expected)


def test_components_in_use_are_matched_first() -> None:
    ones = torch.ones(3, 1)
    previous = Mixture(torch.tensor([0.5, 0.0, 0.5]), torch.tensor([[-1.0], [0.9], [1.0]]), ones)
    mixture = Mixture(torch.tensor([0.6, 0.4, 0.0]), torch.tensor([[0.9], [-1.0], [1.0]]), ones)
    assert aligned(mixture, previous).means.flatten().tolist() == pytest.approx([-1.0, 1.0, 0.9])


def test_an_average_of_refitted_mixtures_is_one_of_like_components() -> None:
    torch.manual_seed(0)
    layer = MixtureNorm(3, n_components=2)
    x = torch.cat([torch.randn(200, 3) - 4, torch.randn(200, 3) + 4])
    average = None
    for _ in range(10):
        layer.reset_queue()
        layer(x[torch.randperm(400)[:100]])
        layer.refit()
        average = copy.deepcopy(layer) if average is None else average
        for buffer, new in zip(average.buffers(), layer.buffers(), strict=True):
            if buffer.is_floating_point():
                buffer.lerp_(new, 0.5)
    # Means of 4 and -4 in the order of the first refit: an average over another order lies between them.
    assert average is not None
    assert (average.mixture_means.abs() - 4).abs().max() < 0.5
    assert (average.eval()(x) - layer.eval()(x)).abs().mean() < 0.3


def test_torchs_average_has_the_current_mixture_and_queue() -> None:
    """It copies buffers unless it is told to average them: what it evaluates with is no average."""
    model = nn.Sequential(nn.Linear(2, 3), MixtureNorm(3))
    average = AveragedModel(model)
    x = torch.randn(60, 2)
    for _ in range(3):
        model(x)
        refit_mixtures(model)
        average.update_parameters(model)
    assert torch.equal(average.eval()(x), model.eval()(x))
    assert refit_mixtures(average) == 0
    assert average.module[1].refit()
