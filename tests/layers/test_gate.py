"""The gate of a mode norm is nobody's linear layer."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from mn_lightning import ModeGroupNorm, ModeNorm


def made() -> list[nn.Module]:
    torch.manual_seed(0)
    return [ModeNorm(6, n_components=3), ModeGroupNorm(6, n_components=3)]


@pytest.mark.parametrize("index", [0, 1])
def test_what_is_done_to_all_linear_layers_leaves_it_alone(index: int) -> None:
    layer = made()[index]
    before = {name: value.clone() for name, value in layer.gate.named_parameters()}

    def init_linear(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.weight)

    layer.apply(init_linear)
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 6), layer).eval(), {nn.Linear})
    assert all(torch.equal(value, before[name]) for name, value in model[1].gate.named_parameters())
    assert model(torch.randn(4, 6)).isfinite().all()


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 4, 4)])
@pytest.mark.parametrize("index", [0, 1])
def test_hooks_on_it_run(index: int, shape: tuple[int, ...]) -> None:
    layer = made()[index]
    seen: list[Tensor] = []
    layer.gate.register_forward_hook(lambda module, inputs, logits: seen.append(logits.softmax(-1)))
    layer(torch.randn(shape))
    (gates,) = seen
    assert gates.shape == ((5, 3) if index == 0 else (5, 6, 3))
    torch.testing.assert_close(gates.sum(-1), torch.ones(gates.shape[:-1]))


@pytest.mark.parametrize("index", [0, 1])
def test_pruning_works(index: int) -> None:
    layer, other = made()[index], made()[index]
    prune.random_unstructured(layer.gate, "weight", 0.5)
    layer.gate.weight_orig.data.mul_(3)
    other.gate.weight.data.mul_(3).mul_(layer.gate.weight_mask)
    x = torch.randn(5, 6, 4)
    torch.testing.assert_close(layer(x), other(x))


@pytest.mark.parametrize("index", [0, 1])
def test_a_parametrization_works(index: int) -> None:
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    layer, other = made()[index], made()[index]
    parametrize.register_parametrization(layer.gate, "weight", Double())
    other.gate.weight.data.mul_(2)
    x = torch.randn(5, 6, 4)
    torch.testing.assert_close(layer(x), other(x))
    layer(x).square().sum().backward()
    assert layer.gate.parametrizations.weight.original.grad is not None
