"""What holds for any shape, dtype, number of components, memory format and values."""

import functools

import pytest
import torch
from helpers.formula import cotangent, formula
from helpers.property_cases import DTYPES, batches, far_off, formats, layers, not_finite, reweighted, shaken
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning import functional as F
from mn_lightning.gmm import Mixture


def faults(found: dict[str, Tensor], layer: nn.Module, x: Tensor, mixture: Mixture | None) -> dict[str, str]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    exact = x.detach().double()
    expected = formula(layer, exact, mixture)

    @functools.cache
    def near() -> list[dict[str, Tensor]]:
        others = shaken(exact, dtype)
        cases = [(other, mixture) for other in others] + [(exact, mixture, other) for other in others[:1]]
        if mixture is not None:
            mixtures = reweighted(exact, mixture, layer.eps, dtype)
            cases = [*cases, *((exact, other) for other in mixtures)] if mixtures else []
        return [formula(layer, *case) for case in cases]

    said = {}
    for name, value in found.items():
        if not name.startswith("gradient"):
            said[name] = far_off(value, expected[name], lambda name=name: [other[name] for other in near()], dtype)
        elif not_finite(value, expected[name]):
            said[name] = "not finite"
        elif dtype == torch.float64:  # others lose too many digits where a component is as narrow as eps
            tolerance = 1e-7 * (1 + exact.abs().max()) * (1 + expected[name].abs().max())
            said[name] = f"off by {error:.3g}" if (error := (value - expected[name]).abs().max()) > tolerance else ""
    return {name: fault for name, fault in said.items() if fault}


@pytest.mark.timeout(3600)  # a nightly run has thousands of cases
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # a stored variance beyond float16, in the formula
@pytest.mark.parametrize("kind", [MixtureNorm, ModeNorm, ModeGroupNorm])
@given(st.data())
def test_a_layer_computes_its_formula(kind: type[nn.Module], data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    x = data.draw(batches(dtype)).requires_grad_()
    layer = data.draw(layers(kind, x))
    if dtype == torch.float64 or data.draw(st.booleans()):
        layer.to(dtype)
    mixture = None
    if isinstance(layer, MixtureNorm):
        first = torch.ones((), dtype=torch.long)
        mixture = F.fit_mixture(x, layer.n_components, layer.em_iters, first, layer.eps, layer.granularity)
    y = layer(x)
    y.backward(cotangent(y))
    found = {"output": y.detach(), "gradient of input": x.grad}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in layer.named_parameters()}
    if isinstance(layer, ModeNorm):
        found |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert formats(x) <= formats(y)
    assert faults(found, layer, x, mixture) == {}

    layer.eval()
    if isinstance(layer, MixtureNorm):
        assert layer.refit()
        mixture = layer.mixture
        assert (mixture.weights >= 0).all()
        assert (mixture.variances >= 0).all()
        assert ((mixture.weights.float().sum(0) - 1).abs() < 0.02).all()
    assert faults({"output": layer(x).detach()}, layer, x, mixture) == {}
