"""The Fréchet distance against scipy's square root of a matrix, and against singular values of the samples."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mn_lightning.fid import frechet
from mn_lightning.fid.frechet import frechet_distance, mean_and_covariance


def samples(count: int, size: int, seed: int, decay: float = 0.0) -> Tensor:
    """Correlated features whose scales fall to ``10 ** -decay``."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    scales = torch.logspace(0, -decay, size, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mixing * scales + seed


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), torch.atleast_2d(x.T.cov())


def by_sqrtm(x: Tensor, y: Tensor) -> float:
    (mean_1, cov_1), (mean_2, cov_2) = ((np.mean(z, 0), np.cov(z, rowvar=False)) for z in (x.numpy(), y.numpy()))
    root = scipy.linalg.sqrtm(cov_1 @ cov_2)
    return float(((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1 + cov_2 - 2 * root.real))


def by_singular_values(x: Tensor, y: Tensor) -> float:
    """The trace of the root is the nuclear norm of the product of the centred samples; exact for any rank."""
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    root = torch.linalg.svdvals(a @ b.T).sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * root)


@pytest.mark.parametrize("decay", [0.0, 3.0])
@pytest.mark.parametrize("size", [1, 7, 128])
def test_equals_scipy(size: int, decay: float) -> None:
    x, y = samples(4 * size + 5, size, 0, decay), samples(3 * size + 5, size, 1, decay)
    assert float(frechet_distance(*moments(x), *moments(y))) == pytest.approx(
        by_sqrtm(x, y) if size > 1 else by_singular_values(x, y), rel=1e-6
    )


@pytest.mark.parametrize(("n", "m"), [(10, 300), (300, 10), (10, 20), (2, 2)])
def test_rank_deficient_covariances(n: int, m: int) -> None:
    x, y = samples(n, 64, 0), samples(m, 64, 1)
    value = float(frechet_distance(*moments(x), *moments(y)))
    assert value == pytest.approx(by_singular_values(x, y), rel=1e-9)
    assert float(frechet_distance(*moments(y), *moments(x))) == pytest.approx(value, rel=1e-9)


def test_of_diagonal_covariances_is_written_down() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([16.0, 4.0, 1.0])
    mean = torch.tensor([1.0, 2.0, 3.0])
    distance = frechet_distance(mean, a.diag(), -mean, b.diag())
    assert distance.dtype == torch.float64
    assert distance.shape == ()
    assert float(distance) == pytest.approx(4 * 14 + 3**2 + 0 + 2**2, rel=1e-12)


def test_of_a_distribution_to_itself_is_zero_and_never_below() -> None:
    for seed in range(5):
        x = samples(30, 40, seed)
        assert 0 <= float(frechet_distance(*moments(x), *moments(x))) < 1e-10


def test_zero_covariances() -> None:
    zero = torch.zeros(3, 3)
    assert float(frechet_distance(torch.ones(3), zero, torch.zeros(3), zero)) == 3
    assert float(frechet_distance(torch.ones(3), zero, torch.zeros(3), torch.eye(3))) == 6


@pytest.mark.parametrize("where", range(4))
def test_what_is_not_finite_gives_nan(where: int) -> None:
    arguments = [torch.zeros(3), torch.eye(3), torch.zeros(3), torch.eye(3)]
    arguments[where][0] = torch.nan
    assert frechet_distance(*arguments).isnan()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\), \(3, 3\), \(4,\), \(4, 4\); it takes"):
        frechet_distance(torch.zeros(3), torch.eye(3), torch.zeros(4), torch.eye(4))


def test_moments_from_sums() -> None:
    x = samples(50, 6, 3)
    mean, covariance = mean_and_covariance(x.sum(0), x.T @ x, 50)
    torch.testing.assert_close(mean, torch.from_numpy(np.mean(x.numpy(), 0)))
    torch.testing.assert_close(covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False)))
    with pytest.raises(ValueError, match="got 1 samples"):
        mean_and_covariance(x[0], x[0].outer(x[0]), 1)


def test_no_complex_numbers() -> None:
    source = Path(frechet.__file__).read_text()
    assert ".real" not in source
    assert "eigvals(" not in source
    x, y = samples(10, 64, 0), samples(20, 64, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(*moments(x), *moments(y))


@pytest.mark.slow
def test_of_inceptions_2048_features() -> None:
    x, y = samples(500, 2048, 0), samples(3000, 2048, 1)
    assert float(frechet_distance(*moments(y), *moments(x))) == pytest.approx(by_singular_values(x, y), rel=1e-9)
