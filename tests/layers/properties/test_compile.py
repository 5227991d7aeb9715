"""torch.compile makes one graph of a layer, which computes what the layer computes."""

import copy
import shutil

import pytest
import torch
from helpers.layers import Case, assert_same, some_input, state

from mn_lightning import MixtureNorm

WITH_TORCH = True
COSTLY = True
SMALLER: dict[object, dict[str, int]] = {MixtureNorm: {"n_components": 2, "em_iters": 1}}
"""What leaves less to compile and the same operations but EM's."""


def compare(case: Case, training: bool, backend: str) -> None:
    """``fullgraph`` refuses a look at a value, which would break the graph."""
    torch._dynamo.reset()
    layer = case.in_use().train(training)
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    for _ in range(2):
        x = some_input()
        given = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(given[0]), compiled(given[1])]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)  # sums are taken in another order
        for y in outputs:
            y.square().sum().backward()
        torch.testing.assert_close(given[1].grad, given[0].grad, rtol=1e-4, atol=1e-4)
    assert_same(state(other), state(layer), 1e-5)
    for mine, theirs in zip(other.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_as_one_graph(case: Case, training: bool) -> None:
    """aot_eager traces forward and backward pass as inductor does, and needs no compiler."""
    compare(case, training, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(900)  # inductor's compiler, on a busy machine
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("training", [True, False])
def test_by_inductor(case: Case, training: bool) -> None:
    smaller = Case(case.kind, case.arguments | SMALLER.get(case.kind, {}), case.flaw)
    with torch._inductor.config.patch(compile_threads=1):  # others would have to import torch first
        compare(smaller, training, "inductor")


test_by_inductor.one_of_each_kind = True
