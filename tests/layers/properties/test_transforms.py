"""``torch.func`` maps a layer over samples and models, and takes derivatives in forward mode, in any nesting."""

from collections.abc import Callable

import pytest
import torch
from helpers import formula
from helpers.layers import Case, assert_same, some_input
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap

from mn_lightning import MixtureNorm, ModeNorm

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning")
COSTLY = True
SHAPE = (6, 3, 2, 2)


def in_use(case: Case, training: bool) -> nn.Module:
    """A layer that updates nothing in training."""
    layer = case.in_use(dtype=torch.float64).train(training)
    layer.track_running_stats = False
    return layer


def as_function(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return lambda x: functional_call(layer, state, (x,))


@pytest.mark.parametrize("training", [True, False])
def test_mapped_over_inputs(case: Case, training: bool) -> None:
    layer = in_use(case, training)
    x = torch.stack([some_input(SHAPE, torch.float64) + i for i in range(3)])
    torch.testing.assert_close(vmap(as_function(layer))(x), torch.stack([layer(one) for one in x]))


@pytest.mark.parametrize("training", [True, False])
def test_mapped_over_models(case: Case, training: bool) -> None:
    """An ensemble, each with statistics of its own, which are updated in training."""
    layers = [case.in_use(dtype=torch.float64).train(training) for _ in range(3)]
    parameters, buffers = stack_module_state(layers)
    x = torch.stack([some_input(SHAPE, torch.float64) for _ in layers])
    found = vmap(lambda p, b, one: functional_call(layers[0], (p, b), (one,)))(parameters, buffers, x)
    torch.testing.assert_close(found, torch.stack([layer(one) for layer, one in zip(layers, x, strict=True)]))
    for i, layer in enumerate(layers):
        assert_same({name: value[i] for name, value in buffers.items()}, dict(layer.named_buffers()), 1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_forward_mode(case: Case, training: bool) -> None:
    """Against the papers' formula, row by row; and where that holds nothing constant, against finite differences."""
    layer, x = in_use(case, training), some_input(SHAPE, torch.float64)
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape).sin()
    mixture, parameters = formula.next_mixture(layer, x), formula.parameters_of(layer)
    if training and mixture is not None:
        layer.num_batches_tracked += 1  # of which the next mixture is

    def by_rows(x: Tensor) -> Tensor:
        return formula.apply(layer, x, parameters, mixture)[0]

    found = jvp(as_function(layer), (x,), (direction,))
    expected = torch.autograd.functional.jvp(by_rows, x, direction)
    assert expected[1].abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    if mixture is None:
        difference = by_rows(x + 1e-6 * direction) - by_rows(x - 1e-6 * direction)
        torch.testing.assert_close(found[1], (difference / 2e-6).detach(), rtol=1e-6, atol=1e-6)


def test_nested(case: Case) -> None:
    """Jacobians both ways, and gradients of each sample for the parameters, as differential privacy takes them."""
    layer, x = in_use(case, False), some_input((2, *SHAPE[1:]), torch.float64)
    torch.testing.assert_close(jacfwd(as_function(layer))(x), jacrev(as_function(layer))(x), rtol=1e-9, atol=1e-9)
    buffers = dict(layer.named_buffers())
    if not (parameters := {name: value.detach() for name, value in layer.named_parameters()}):
        return

    def loss(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(layer, (parameters, buffers), (one.unsqueeze(0),)).pow(3).sum()

    found = vmap(grad(loss), (None, 0))(parameters, x)
    for i, one in enumerate(x):
        expected = torch.autograd.grad(layer(one.unsqueeze(0)).pow(3).sum(), list(layer.parameters()))
        for value, reference in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(value[i], reference, rtol=1e-9, atol=1e-9)


def test_statistics_of_one_layer_are_not_updated_by_many_inputs(case: Case) -> None:
    layer = case.in_use()
    if not isinstance(layer, (MixtureNorm, ModeNorm)):
        pytest.skip("nothing to update")
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with pytest.raises(RuntimeError, match=r"which vmap cannot do .* track_running_stats = False") as raised:
        vmap(as_function(layer))(torch.stack([some_input(), some_input()]))
    assert "\n" not in str(raised.value)
    assert_same(dict(layer.named_buffers()), before)
