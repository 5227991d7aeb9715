"""Fisher vectors against the loops, autograd and the norms."""

import numpy as np
import pytest
import torch
from helpers import oracle
from helpers.functional_cases import EPS, close, grouped_input, mixture_of_three, to_mixture
from torch import nn

from mn_lightning import functional as F

pytestmark = pytest.mark.usefixtures("backend")


def test_fisher_vector_against_the_loops_and_autograd() -> None:
    x = grouped_input((8, 2))
    params = mixture_of_three(2, "layer")
    parts = F.fisher_vector(x, *to_mixture(params))
    references = (oracle.fisher_vector(x.numpy(), params), oracle.fisher_vector_by_autograd(x.numpy(), params))
    for expected in references:
        for part, reference in zip(parts, expected, strict=True):
            assert part.shape == (8, 3, 2)
            close(part, reference, 1e-9)


def test_fisher_vector_of_an_unused_component_is_zero() -> None:
    weights, means, variances = mixture_of_three(2, "layer")
    weights = np.array([0.6, 0.4, 0.0])
    x = grouped_input((8, 2))
    parts = F.fisher_vector(x, *to_mixture((weights, means, variances)))
    for part, reference in zip(parts, oracle.fisher_vector(x.numpy(), (weights, means, variances)), strict=True):
        assert (part[:, 2] == 0).all()
        close(part, reference, 1e-9)


def test_fisher_vector_of_one_gaussian_is_batch_norm() -> None:
    x = grouped_input((20, 3))
    var, mean = torch.var_mean(x, 0, correction=0)
    part, _ = F.fisher_vector(x, torch.ones(1).double(), mean[None], var[None] + EPS)
    close(part[:, 0], nn.BatchNorm1d(3, eps=EPS, affine=False).double()(x), 1e-9)


def test_sum_of_fisher_vectors_is_mixture_norm() -> None:
    x, params = grouped_input((10, 2)), mixture_of_three(2, "layer")
    total = F.fisher_vector(x, *to_mixture(params))[0].sum(1)
    close(total, F.mixture_norm(x, to_mixture(params), eps=0.0), 1e-9)
    close(total, oracle.mixture_norm(x, params, eps=0.0), 1e-9)


def test_fisher_vector_with_a_large_offset() -> None:
    x = grouped_input((10, 2), offset=1e4).float()
    params = mixture_of_three(2, "layer", offset=1e4)
    rounded = tuple(p.astype(np.float32).astype(np.float64) for p in params)
    parts = F.fisher_vector(x, *to_mixture(params, torch.float32))
    for part, reference in zip(parts, oracle.fisher_vector(x.double().numpy(), rounded), strict=True):
        close(part.double(), reference, 1e-2)


@pytest.mark.parametrize(
    "shapes",
    [
        ((5,), (2,), (2, 3), (2, 3)),
        ((5, 3, 1), (2,), (2, 3), (2, 3)),
        ((5, 3), (3,), (2, 3), (2, 3)),
        ((5, 3), (2, 1), (2, 3), (2, 3)),
        ((5, 3), (2,), (2, 4), (2, 4)),
        ((5, 3), (2,), (2, 3), (2, 1)),
        ((5, 3), (2,), (2, 3), (3,)),
    ],
)
def test_wrong_shapes_for_fisher_vector(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="it takes") as error:
        F.fisher_vector(*(torch.ones(shape) for shape in shapes))
    message = str(error.value)
    assert "\n" not in message
    assert "(M, D), (K,), (K, D) and (K, D)" in message
    for shape in shapes:
        assert str(shape) in message
