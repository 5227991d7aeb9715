"""Several processes that hold a batch between them compute what one process computes that holds it alone."""

from typing import Any

import pytest
import torch
from helpers import gloo, layers
from helpers.layers import Case
from helpers.sync_cases import SHAPES, SPLITS, all_world_sizes, refit, train

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def cases() -> list[tuple[Case, tuple[int, ...]]]:
    """All rows with all shapes, but many rows for one of each kind only."""
    few = list(layers.one_of_each_kind().values())
    rows = [case for case in layers.OURS.values() if case.flaw in ("", "sync")]
    return [(case, shape) for case in rows for name, shape in SHAPES.items() if "sample" not in name or case in few]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, Any]]:
    """What each process found, alone with one other and with two."""
    folder = tmp_path_factory.mktemp("sync")
    return gloo.run(all_world_sizes, 3, folder, folder, cases())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("world_size", SPLITS)
def test_any_number_of_processes_equals_one(
    case: Case, world_size: int, shape: tuple[int, ...], results: list[dict[int, Any]]
) -> None:
    if "fit_rows" in case.arguments:
        pytest.skip("each process draws rows of its own")
    if (case, shape) not in cases():
        pytest.skip("one of each kind is enough")
    place = cases().index((case, shape))
    # A component of one or two vectors is as narrow as eps: its gradient is 1e5 times as large as the sums' rounding.
    tolerance = 1e-9 if shape else 1e-6
    expected = train(0, case, shape, [8])
    for i, split in enumerate(SPLITS[world_size]):
        found = [results[rank][world_size]["trained"][place][i] for rank in range(world_size)]
        for name, value in expected.items():
            parts = [one[name] for one in found]
            if name.startswith(("output", "input gradient")):
                assert [len(part) for part in parts] == split
                parts = [torch.cat(parts)]
            for part in parts:
                torch.testing.assert_close(part, value, rtol=tolerance, atol=tolerance, msg=f"{split}: {name}")


def test_without_sync_processes_differ() -> None:
    """What the other test would see if nothing were exchanged."""
    case, shape = layers.OURS["mixture"], SHAPES["images"]
    whole = train(0, case, shape, [8])["output 0"][:5]
    part = train(0, case, shape, [5, 3])["output 0"]
    assert not torch.allclose(part, whole, atol=1e-2)


@pytest.mark.parametrize("world_size", SPLITS)
def test_a_refit_is_one_of_all_queues_and_the_same_everywhere(world_size: int, results: list[dict[int, Any]]) -> None:
    found_by = [results[rank][world_size]["refitted"] for rank in range(world_size)]
    (alone,) = refit(0, [[8]])
    order = alone["mixture_weights"].argsort()
    for i in range(len(SPLITS[world_size])):
        for result in found_by:
            assert not result[i]["stale"]
            for name, value in found_by[0][i].items():
                assert torch.equal(result[i][name], value)  # bit for bit
        found = found_by[0][i]
        same = found["mixture_weights"].argsort()
        for name in ("mixture_weights", "mixture_means", "mixture_variances"):
            # Other random rows seed the fit, which converges to the same clusters.
            torch.testing.assert_close(found[name][same], alone[name][order], rtol=1e-4, atol=1e-4)
