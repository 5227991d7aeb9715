"""Whole fits through Lightning's ddp strategy."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gloo
from helpers.trainer_cases import fit, fit_many
from lightning.pytorch.strategies import DDPStrategy

from mn_lightning.plugins import NormLayerSync

pytestmark = [pytest.mark.slow, pytest.mark.processes]

CASES: dict[str, dict[str, Any]] = {
    "mixture": {"swap": {"sync": True}},
    "mode": {"norm": "mode", "swap": {"sync": True}},
    "mode group": {"norm": "mode_group"},
    "sync_batchnorm": {"sync_batchnorm": True},
    "plugin": {"plugins": [NormLayerSync()]},
    "unused parameters": {"swap": {"sync": True}, "strategy": "ddp_find_unused_parameters_true"},
    "static graph": {"swap": {"sync": True}, "strategy": DDPStrategy(static_graph=True)},
    "without sync": {},
}


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ddp")
    by_rank = gloo.run(fit_many, 2, folder, 2, folder, list(CASES.values()))
    return {case: [found[i] for found in by_rank] for i, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_all_processes_end_with_the_same_weights_and_mixtures(case: str, fits: dict[str, list[dict[str, Any]]]) -> None:
    first, second = fits[case]
    assert first["steps"] == second["steps"] == 8
    for name, value in first["state"].items():
        assert torch.equal(second["state"][name], value), name


@pytest.mark.parametrize("case", [case for case in CASES if case != "without sync"])
def test_two_processes_train_as_one(case: str, fits: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    arguments = {key: value for key, value in CASES[case].items() if key in ("norm", "swap")}
    alone = fit(0, tmp_path, **arguments)
    together = fits[case][0]
    for name, value in alone["state"].items():
        if "mixture_" not in name:  # the queues hold other rows of the batches
            torch.testing.assert_close(together["state"][name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_without_sync_they_do_not(fits: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    alone = fit(0, tmp_path)["state"]["0.weight"]
    assert not torch.allclose(fits["without sync"][0]["state"]["0.weight"], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_what_turns_synchronization_on(case: str, fits: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    # The plugin has turned it off again after the fit.
    expected = case in ("mixture", "mode", "sync_batchnorm", "unused parameters", "static graph")
    assert fits[case][0]["sync"] == ([] if case == "mode group" else [expected] * 2)


@pytest.mark.parametrize("case", ["mixture", "without sync"])
def test_each_process_keeps_a_queue_of_its_own(case: str, fits: dict[str, list[dict[str, Any]]]) -> None:
    first, second = (found["queues"] for found in fits[case])
    for name in first:
        assert torch.equal(first[name], second[name]) == name.endswith("pushes"), name
