"""Each backend computes the papers' formulas, forward and backward, with every setting."""

import pytest
import torch
from helpers import formula
from helpers.backends import backends
from helpers.layers import Case, outcome, some_input

from mn_lightning.kernels import select

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def check(case: Case, backend: str, layout: str, dtype: torch.dtype, device: str) -> None:
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    layer = case.in_use(dtype=torch.float64)
    for training in (True, False):
        layer.train(training)
        x = some_input((8, 3, 3, 2), dtype)
        expected = formula.formula(layer, x, formula.next_mixture(layer, x))
        given = x.to(device, memory_format=LAYOUTS[layout])
        with select.use(backend):
            found = outcome(layer.to(device, dtype), given)
        layer.to("cpu", torch.float64)
        for name in found.keys() & expected.keys():
            value = found[name].cpu().double()
            torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance, msg=name)
        assert "output" in expected


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", backends())
def test_on_the_cpu(case: Case, backend: str, layout: str, dtype: torch.dtype) -> None:
    check(case, backend, layout, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", backends("cuda") if torch.cuda.is_available() else ["all"])
def test_on_a_gpu(case: Case, backend: str, layout: str, dtype: torch.dtype) -> None:
    check(case, backend, layout, dtype, "cuda")
