"""Statistics taken anew: what comes out, and that nothing else changes."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import gloo, oracle, update_cases
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import mn_lightning as mn


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    for _ in range(5):
        model(3 * torch.randn(8, 2, 8, 8))
    return model


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(20, 2, 8, 8), torch.zeros(20)), batch_size=8)


def check_expected(state: dict[str, Tensor]) -> None:
    """Compare the three layers with averages over the batches' moments, and with the moments of all rows."""
    batches = update_cases.batches()
    rows = [oracle.rows_of(batch) for batch in batches]
    torch.testing.assert_close(state["0.running_mean"], torch.stack([part.mean(0) for part in rows]).mean(0))
    torch.testing.assert_close(state["0.running_var"], torch.stack([part.var(0) for part in rows]).mean(0))
    means, variances = [], []
    zeros = torch.zeros(2, update_cases.CHANNELS, dtype=torch.float64)
    for batch in batches:
        gate = (state["1.gate.weight"], state["1.gate.bias"])
        _, mean, variance = oracle.mode_norm(batch, *gate, zeros, zeros, training=True, momentum=1)
        means.append(mean)
        variances.append(variance)
    torch.testing.assert_close(state["1.running_mean"], torch.stack(means).mean(0))
    torch.testing.assert_close(state["1.running_var"], torch.stack(variances).mean(0))
    gate = (state["3.gate.weight"], state["3.gate.bias"])
    moments = [oracle.mode_norm(batch, *gate, zeros, zeros, training=True, momentum=1)[1:] for batch in batches]
    count = len(rows[0])
    second = torch.stack([variance * (count - 1) / count + mean**2 for mean, variance in moments]).mean(0)
    mean = torch.stack([mean for mean, _ in moments]).mean(0)
    torch.testing.assert_close(state["3.running_mean"], mean)
    torch.testing.assert_close(state["3.running_var"], second - mean**2)
    whole = torch.cat(rows)
    tolerance = {"rtol": 1e-6, "atol": 1e-6}  # the queue holds float32
    torch.testing.assert_close(state["2.mixture_means"][0], whole.mean(0), **tolerance)
    torch.testing.assert_close(state["2.mixture_variances"][0], whole.var(0, unbiased=False), **tolerance)


def test_running_moments_are_averages_and_mixtures_are_fitted() -> None:
    model = update_cases.model()
    assert mn.update_norms(model, iter(update_cases.batches())) == 4
    check_expected(model.state_dict())
    assert not model[2].stale


@pytest.mark.slow
@pytest.mark.processes
def test_several_processes_end_with_the_statistics_of_all(tmp_path: Path) -> None:
    for state in gloo.run(update_cases.update, len(update_cases.SHARES), tmp_path):
        check_expected(state)


def test_batch_norm_as_torch() -> None:
    ours, batches = network(), loader()
    theirs = copy.deepcopy(ours)
    mn.update_norms(ours, batches)
    update_bn(batches, theirs)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_nothing_else_changes() -> None:
    model = network()
    mn.swap_norms(model, norm="mode", layers=["4"])
    model.append(nn.BatchNorm2d(4, momentum=None)).append(nn.BatchNorm2d(4, track_running_stats=False))
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.named_parameters()}
    kept = model[1].running_mean.clone()
    assert mn.update_norms(model, [torch.randn(8, 2, 8, 8, requires_grad=True)]) == 2  # someone keeps model[1]
    assert torch.equal(model[1].running_mean, kept)
    assert [module.training for module in model.modules()] == modes
    assert [model[i].momentum for i in (1, 4, 5)] == [0.1, 0.1, None]
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name])
        assert value.grad is None


def test_evaluation_is_that_of_the_batches() -> None:
    """Data far from what the statistics were of are normalized again."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    mn.swap_norms(model, norm="mixture", layers=["1"])
    data = 50 + 7 * torch.randn(512, 4)
    assert model.eval()(data).mean() > 40
    mn.update_norms(model, data.split(128))
    assert model(data).mean(0).abs().max() < 0.1


def test_a_model_without_norms_is_left_alone() -> None:
    assert mn.update_norms(nn.Linear(2, 2), [torch.zeros(3)]) == 0


def failing() -> Iterator[Tensor]:
    yield torch.randn(8, 2, 8, 8)
    raise OSError("disk")


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "got no batch; give it a DataLoader"),
        ([{"image": 1}], TypeError, "batch of type dict; it takes tensors, or tuples and lists"),
        ([torch.randn(8, 2, 8, 8), ()], TypeError, "batch of type tuple"),
        (failing(), OSError, "disk"),
    ],
)
def test_after_an_error_the_statistics_are_the_former(
    batches: list[object], error: type[Exception], message: str
) -> None:
    model = network()
    mn.swap_norms(model, norm="mixture", layers=["4"])
    model(torch.randn(8, 2, 8, 8))
    mn.refit_mixtures(model)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items() if "queue" not in name}
    with pytest.raises(error, match=message):
        mn.update_norms(model, batches)
    assert not model[4].stale
    assert model[1].momentum == 0.1
    assert not model.training
    after = model.state_dict()
    for name, value in before.items():
        if name != "4.num_batches_tracked":  # numbers the random choices of the fits
            assert torch.equal(after[name], value), name


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(3), mn.ModeNorm(3)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return self.other(self.norm(x + shift))


def test_mappings_become_keyword_arguments() -> None:
    model = Two()
    batches = [
        {
            "x": torch.randn(50, 3),
            "shift": torch.full((3,), 5.0),
        }
        for _ in range(2)
    ]
    assert mn.update_norms(model, batches) == 2
    rows = torch.cat([batch["x"] + batch["shift"] for batch in batches])
    torch.testing.assert_close(model.norm.running_mean, rows.mean(0))


@pytest.mark.parametrize("how", ["eval", "flag"])
def test_layers_whose_statistics_someone_keeps_are_left_alone(how: str) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm1d(3), mn.ModeNorm(3), mn.MixtureNorm(3, 2), nn.BatchNorm1d(3), mn.ModeNorm(3))

    model = build()
    model(torch.randn(30, 3))
    for index in (0, 1, 2):
        if how == "eval":
            model[index].eval()
        else:
            model[index].track_running_stats = False
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert mn.update_norms(model, [torch.randn(40, 3) * 3 + 4]) == 2
    assert [layer.training for layer in model] == [how == "flag"] * 3 + [True] * 2
    for key, value in model.state_dict().items():
        if "running" in key or "mixture" in key:
            assert torch.equal(value, before[key]) == (key[0] in "012"), key
    model.eval()  # as after a fit: then all are taken anew
    for layer in model:
        layer.track_running_stats = True
    assert mn.update_norms(model, [torch.randn(40, 3) * 3 + 4]) == 5


def test_torchs_update_bn_knows_none_of_our_layers_and_ours_does_the_same_for_them() -> None:
    """A ModeNorm of one mode is a BatchNorm, for which both have to find the same."""
    batch_norm = network()
    ours = copy.deepcopy(batch_norm)
    mn.swap_norms(ours, "all", "mode", n_components=1)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    update_bn(loader_of(batches := list(loader())), ours)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())  # as the guide warns
    update_bn(loader_of(batches), batch_norm)
    assert mn.update_norms(ours, batches) == 2
    for place in (1, 4):
        torch.testing.assert_close(ours[place].running_mean[0], batch_norm[place].running_mean)
        torch.testing.assert_close(ours[place].running_var[0], batch_norm[place].running_var)


def loader_of(batches: list[list[Tensor]]) -> Iterator[list[Tensor]]:
    return iter(batches)


def test_what_update_bn_leaves_of_mixtures_in_a_network_with_batch_norm_is_said() -> None:
    model = network()
    mn.swap_norms(model, "4", "mixture")
    update_bn(loader(), model)
    with pytest.warns(UserWarning, match="refit_mixtures"):
        model.eval()(torch.randn(2, 2, 8, 8))
    assert mn.refit_mixtures(model) == 1
