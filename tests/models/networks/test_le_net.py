"""LeNet against LeNet-5 (LeCun et al. 1998) and Section 4.1 of Deecke et al. (arXiv:1810.05466)."""

import pytest
import torch
from helpers.network_parts import count_parameters, map_shapes

from mn_lightning import swap_norms
from mn_lightning.models import LeNet


def test_number_of_parameters() -> None:
    convs = (25 * 3 * 6 + 2 * 6) + (25 * 6 * 16 + 2 * 16)
    # 48,120 and 10,164 are the parameters of LeNet-5's layers C5 and F6 in the paper of 1998.
    assert count_parameters(LeNet()) == convs + 48_120 + 10_164 + 85 * 40
    assert count_parameters(LeNet(1, 10)) == count_parameters(LeNet()) - 25 * 2 * 6 - 85 * 30


def test_the_classifier_is_40_way() -> None:
    assert LeNet()(torch.zeros(2, 3, 32, 32)).shape == (2, 40)


def test_feature_maps() -> None:
    assert map_shapes(LeNet(), ["conv1", "pool1", "conv2", "pool2"]) == [(6, 28), (6, 14), (16, 10), (16, 5)]


@pytest.mark.parametrize(
    ("norm", "arguments"),
    [
        ("instance", {}),
        ("layer", {}),
        ("group", {"num_groups": 2}),
        ("mode_group", {"n_components": 2}),
        *[("mode", {"n_components": k}) for k in (2, 4, 6)],
    ],
)
def test_it_trains_with_every_norm_of_tables_1_and_2(norm: str, arguments: dict[str, int]) -> None:
    network = LeNet()
    report = swap_norms(network, "all", norm, **arguments)
    assert [line.name for line in report] == ["conv1.norm", "conv2.norm"]
    network(torch.randn(3, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got input of shape \(2, 3, 33, 32\); it takes \(N, 3, 32, 32\)"):
        LeNet()(torch.zeros(2, 3, 33, 32))
