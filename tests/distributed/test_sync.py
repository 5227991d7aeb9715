"""Several processes that hold a batch between them compute what one process computes that holds it alone."""

from pathlib import Path

import pytest
import torch
from helpers import gloo
from helpers.sync_cases import CASES, SPLITS, refit, train, train_all

pytestmark = [pytest.mark.slow, pytest.mark.processes]


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_processes_equals_one(world_size: int, tmp_path: Path) -> None:
    splits = SPLITS[world_size]
    results = gloo.run(train_all, world_size, tmp_path, splits)
    for case in CASES:
        expected = train(0, case, [8])
        for i, split in enumerate(splits):
            for name, value in expected.items():
                parts = [result[case, i][name] for result in results]
                if name.startswith(("output", "input gradient")):
                    assert [len(part) for part in parts] == split
                    parts = [torch.cat(parts)]
                for part in parts:
                    torch.testing.assert_close(part, value, rtol=1e-9, atol=1e-9, msg=f"{case}, {split}: {name}")


def test_without_sync_processes_differ(tmp_path: Path) -> None:
    """What the other test would see if nothing were exchanged."""
    whole = train(0, "mixture", [8])["output 0"][:5]
    part = train(0, "mixture", [5, 3])["output 0"]
    assert not torch.allclose(part, whole, atol=1e-2)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_refit_is_one_of_all_queues_and_the_same_everywhere(world_size: int, tmp_path: Path) -> None:
    results = gloo.run(refit, world_size, tmp_path, SPLITS[world_size])
    (alone,) = refit(0, [[8]])
    order = alone["mixture_weights"].argsort()
    for i in range(len(SPLITS[world_size])):
        for result in results:
            assert not result[i]["stale"]
            for name, value in results[0][i].items():
                assert torch.equal(result[i][name], value)  # bit for bit
        found = results[0][i]
        same = found["mixture_weights"].argsort()
        for name in ("mixture_weights", "mixture_means", "mixture_variances"):
            # Other random rows seed the fit, which converges to the same clusters.
            torch.testing.assert_close(found[name][same], alone[name][order], rtol=1e-4, atol=1e-4)
