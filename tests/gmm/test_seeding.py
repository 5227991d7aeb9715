"""Fits to some of the rows."""

import pytest
import torch
from helpers import oracle
from helpers.gmm_cases import REG

from mn_lightning import functional
from mn_lightning.utils.random import Stream, stratified

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.mark.parametrize("shape", [(300, 3), (30, 3, 10), (10, 3, 6, 5)])
def test_a_fit_to_some_rows_is_a_fit_of_these_rows(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 2 + 50
    step = torch.tensor(3)
    fitted = functional.fit_mixture(x, 3, 4, step, REG, fit_rows=90)
    rows = oracle.rows_of(x)
    chosen = rows[stratified(step, 90, 300, Stream.FIT_ROWS)]
    assert len(chosen.unique(dim=0)) == 90
    expected = functional.fit_mixture(chosen, 3, 4, step, REG)
    for value, reference in zip(fitted, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-9)
    assert not torch.allclose(fitted.means, functional.fit_mixture(x, 3, 4, step, REG).means)


def test_a_fit_to_more_rows_than_there_are_is_a_fit_to_all() -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    step = torch.tensor(3)
    for value, reference in zip(
        functional.fit_mixture(x, 3, 4, step, REG, fit_rows=41), functional.fit_mixture(x, 3, 4, step, REG), strict=True
    ):
        assert torch.equal(value, reference)
