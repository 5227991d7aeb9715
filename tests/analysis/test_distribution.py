"""Against SciPy, and against what the layers return."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from mn_lightning import MixtureNorm, ModeNorm
from mn_lightning.analysis.distribution import (
    flat_rows,
    layer_mixture,
    log_likelihood_gains,
    normalized,
    shape,
    typical_channels,
)
from mn_lightning.gmm import Mixture


@pytest.mark.parametrize("arguments", [{}, {"granularity": "channel"}, {"scale": "unit"}, {"activation": torch.relu}])
def test_a_mixture_norm_without_its_affine_map_and_activation(arguments: Any) -> None:
    x = torch.randn(30, 4, 3, 3)
    layer = MixtureNorm(4, affine=None, **{**arguments, "activation": None})
    layer(x)
    layer.refit()
    expected = layer.eval()(x)
    layer.activation = arguments.get("activation")
    torch.testing.assert_close(normalized(x, layer), expected)


def test_a_mode_norm_without_its_affine_map() -> None:
    x = torch.randn(30, 4, 3, 3)
    layer = ModeNorm(4, 3)
    layer(x)
    expected = layer.eval()(x).detach()
    for parameter in (layer.weight, layer.bias):
        assert parameter is not None
        nn.init.constant_(parameter, 7.0)
    torch.testing.assert_close(normalized(x, layer), expected)
    mixture = layer_mixture(x, layer)
    torch.testing.assert_close(mixture.weights, layer.gate(x.mean((2, 3))).softmax(1).mean(0).detach())
    assert mixture.means is layer.running_mean


def test_shapes_of_distributions() -> None:
    x = torch.randn(50, 3, 4).exp()
    x[:, 1] = 2.0
    rows = x.permute(0, 2, 1).reshape(-1, 3)
    assert torch.equal(flat_rows(x), rows)
    found = shape(flat_rows(x))
    np.testing.assert_allclose(found.skewness[[0, 2]], scipy.stats.skew(rows[:, [0, 2]].double()))
    np.testing.assert_allclose(found.kurtosis[[0, 2]], scipy.stats.kurtosis(rows[:, [0, 2]].double()))
    assert np.isnan(found.skewness[1])


@pytest.mark.parametrize("per_channel", [False, True])
def test_gains_of_channels(per_channel: bool) -> None:
    weights = (
        torch.tensor([[0.3, 0.6], [0.7, 0.4], [0.0, 0.0]]).double() if per_channel else torch.tensor([0.3, 0.7, 0])
    )
    mixture = Mixture(weights, torch.randn(3, 2), torch.rand(3, 2) + 0.1)
    rows = torch.randn(100, 2)
    found = log_likelihood_gains(rows, mixture, eps=0.0)
    for c in range(2):
        x = rows[:, c].double().numpy()
        density = sum(
            float(weights[k, c] if per_channel else weights[k])
            * scipy.stats.norm(float(mixture.means[k, c]), float(mixture.variances[k, c]) ** 0.5).pdf(x)
            for k in range(2)
        )
        expected = np.log(density).mean() - scipy.stats.norm(x.mean(), x.std()).logpdf(x).mean()
        assert found[c] == pytest.approx(expected, rel=1e-5)


def test_typical_channels_are_spread_over_the_ranks() -> None:
    gains = np.array([3.0, np.nan, 1.0, 0.5, 2.0, 9.0, 4.0])
    assert typical_channels(gains) == [1, 2, 0, 5]
    assert typical_channels(gains[:2]) == [1, 0]
    assert len(typical_channels(np.zeros(2048))) == 4
