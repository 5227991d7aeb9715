"""torch.fx sees a layer of ours as one node."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

import mn_lightning as mn


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group", "group"])
def test_a_feature_extractor_of_a_swapped_network(norm: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3).eval()
    mn.swap_norms(model, ["layer4"], norm)
    expected: list[torch.Tensor] = []
    model.layer4.register_forward_hook(lambda module, inputs, output: expected.append(output))
    images = torch.randn(2, 3, 32, 32)
    model(images)
    extractor = create_feature_extractor(model, {"layer4": "features", "layer4.0.bn1": "norm"})
    found = extractor(images)
    torch.testing.assert_close(found["features"], expected[0])
    assert found["norm"].shape == (2, 512, 1, 1)


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group"])
def test_a_graph_has_one_node_for_the_layer_and_trains(norm: str) -> None:
    model = nn.Sequential(OrderedDict(linear=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), act=nn.ReLU()))
    mn.swap_norms(model, norm=norm)
    graph = fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["linear", "norm", "act"]
    x = torch.randn(20, 3)
    fx.Interpreter(graph).run(x).sum().backward()
    assert model.norm.weight.grad is not None
    if norm == "mixture":
        assert model.norm.stale


def test_what_follows_the_norm_is_done_once() -> None:
    """An activation that stood inside the old layer is called by the new one, in a graph too."""

    class Act(nn.BatchNorm1d):
        def __init__(self) -> None:
            super().__init__(4)
            self.act = nn.SiLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(super().forward(x))

    model = nn.Sequential(nn.Linear(3, 4), Act()).eval()
    x = torch.randn(5, 3)
    expected = model(x)
    mn.swap_norms(model, norm="mode")
    torch.testing.assert_close(fx.symbolic_trace(model)(x), expected)
