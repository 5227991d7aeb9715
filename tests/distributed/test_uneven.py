"""Fits of processes with parts of a batch that differ in size, or are empty; and with different numbers of batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gloo
from helpers.trainer_cases import BATCH, SumOfRows, error_of_a_fit, fit, fit_many

pytestmark = [pytest.mark.slow, pytest.mark.processes]
SHARES = {
    "an empty part here and there": [(11, 5, 8), (BATCH, 0, 0), (0, 12, 12), (13, 11, 0)],
    "a process without data": [(0, 10, 14)] * 4,
}
COMMON: dict[str, Any] = {"model_class": SumOfRows, "limit_val_batches": 0, "swap": {"sync": True}}
CASES = [(norm, name) for norm in ("mixture", "mode") for name in SHARES]


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("uneven")
    cases = [{"norm": norm, "shares": SHARES[name], **COMMON} for norm, name in CASES]
    by_rank = gloo.run(fit_many, 3, folder, 3, folder, cases)
    return {case: [found[i]["state"] for found in by_rank] for i, case in enumerate(CASES)}


@pytest.mark.parametrize(("norm", "name"), CASES)
def test_three_processes_train_as_one(norm: str, name: str, fits: Any, tmp_path: Path) -> None:
    alone = fit(0, tmp_path, norm=norm, shares=[(BATCH,)] * 4, **COMMON)["state"]
    states = fits[norm, name]
    for key, value in alone.items():
        for state in states[1:]:
            assert torch.equal(state[key], states[0][key]), key  # mixtures too, bit for bit
        if "mixture_" not in key:  # the queues hold other rows of the batches
            torch.testing.assert_close(states[0][key], value, rtol=1e-4, atol=1e-4, msg=key)


def test_another_number_of_batches_is_refused_by_all(tmp_path: Path) -> None:
    """One process would wait in the refit at the end of its epoch for another that still trains."""
    for error in gloo.run(error_of_a_fit, 2, tmp_path, tmp_path, seconds=120):
        assert "the processes have 4, 3 training batches" in error
        assert "limit_train_batches=3" in error
