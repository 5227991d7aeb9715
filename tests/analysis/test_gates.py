"""Against the layers that normalize with the gates, SciPy, and numbers by hand."""

import pytest
import scipy.stats
import torch
from helpers.network_parts import outputs

from mn_lightning import ModeGroupNorm, ModeNorm
from mn_lightning.analysis.gates import gate_statistics, gate_sums, gates


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 5)])
def test_the_gates_are_those_that_the_layer_normalizes_with(shape: tuple[int, ...]) -> None:
    """With moments 0 and k² - eps, mode k's part of the output is input / k."""
    layer = ModeNorm(4, 2).eval()
    torch.nn.init.normal_(layer.gate.weight)
    layer.running_var.copy_(torch.tensor([[1.0], [4.0]]).expand(2, 4) - layer.eps)
    x = torch.randn(shape)
    found = gates(x, layer).reshape(6, 2, *[1] * (len(shape) - 1)).unbind(1)
    torch.testing.assert_close(layer(x), found[0] * x + found[1] * x / 2)


def test_gates_of_channels() -> None:
    layer = ModeGroupNorm(4, 3)
    x = torch.randn(2, 4, 5)
    logits = outputs(layer.gate, x.mean(-1, keepdim=True))[""]
    torch.testing.assert_close(gates(x, layer), logits.softmax(-1))


def test_numbers_of_gates_by_hand() -> None:
    gate = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.7, 0.3]])
    found = gate_statistics(gate_sums(gate[:1]) + gate_sums(gate[1:]))
    assert found["gate_entropy"] == pytest.approx(scipy.stats.entropy(gate.numpy(), axis=1).mean(), rel=1e-5)
    assert [round(float(found[name]), 6) for name in ("gate_0", "gate_1", "share_0", "share_1")] == [
        0.7,
        0.3,
        0.75,
        0.25,
    ]
    torch.testing.assert_close(gate_sums(gate.unsqueeze(0)), gate_sums(gate))
