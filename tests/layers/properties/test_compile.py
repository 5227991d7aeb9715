"""torch.compile makes one graph of a layer, which computes what the layer computes."""

import copy
import shutil
from typing import Any

import pytest
import torch
from functorch.compile import default_partition, nop
from helpers.layers import Case, assert_same, some_input, state
from torch._dynamo.backends.common import aot_autograd

from mn_lightning import MixtureNorm

WITH_TORCH = True
COSTLY = True
SMALLER: dict[object, dict[str, int]] = {MixtureNorm: {"n_components": 2, "em_iters": 1}}
"""What leaves less to compile and the same operations but EM's."""


TRACED = aot_autograd(fw_compiler=nop, partition_fn=default_partition)
"""Traces forward and backward pass as inductor does, and needs no compiler. torch's "aot_eager" is the same, but spends
half of its time on looking for what is worth computing twice."""


def compare(case: Case, training: bool, backend: Any, dtype: torch.dtype, tolerance: float) -> None:
    """``fullgraph`` refuses a look at a value, which would break the graph."""
    torch._dynamo.reset()
    layer = case.in_use(dtype=dtype).train(training)
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    for _ in range(2):
        x = some_input(dtype=dtype)
        given = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(given[0]), compiled(given[1])]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=tolerance, atol=tolerance)  # sums in another order
        for y in outputs:
            y.square().sum().backward()
        torch.testing.assert_close(given[1].grad, given[0].grad, rtol=tolerance, atol=tolerance)
    assert_same(state(other), state(layer), tolerance)
    for mine, theirs in zip(other.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("training", [True, False])
def test_as_one_graph(case: Case, training: bool) -> None:
    compare(case, training, TRACED, torch.float64, 1e-8)


@pytest.mark.slow
@pytest.mark.timeout(900)  # inductor's compiler, on a busy machine
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("training", [True, False])
def test_by_inductor(case: Case, training: bool) -> None:
    smaller = Case(case.kind, case.arguments | SMALLER.get(case.kind, {}), case.flaw)
    with torch._inductor.config.patch(compile_threads=1):  # others would have to import torch first
        compare(smaller, training, "inductor", torch.float32, 1e-4)


test_by_inductor.one_of_each_kind = True
