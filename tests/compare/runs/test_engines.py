"""How machines are shared out, worked out by hand."""

from typing import Any

import pytest

from mn_lightning.compare.runs.engines import Request, _jobs_and_cores, connect, local_engine
from mn_lightning.compare.study.study import StudyError

EIGHT = list(range(8))


@pytest.mark.parametrize(
    ("jobs", "gpus_per_job", "gpus", "places"),
    [
        (1, None, [], [(EIGHT, None)]),
        (1, None, ["0", "1"], [(EIGHT, None)]),  # as without --jobs: the trainer takes what it wants
        (2, None, [], [([0, 1, 2, 3], None), ([4, 5, 6, 7], None)]),
        (3, None, [], [([0, 1], None), ([2, 3, 4], None), ([5, 6, 7], None)]),
        (None, None, [], [([0, 1], None), ([2, 3], None), ([4, 5], None), ([6, 7], None)]),
        (None, None, ["3", "5"], [([0, 1, 2, 3], "3"), ([4, 5, 6, 7], "5")]),
        (2, None, ["0", "1"], [([0, 1, 2, 3], "0"), ([4, 5, 6, 7], "1")]),
        (4, 0.5, ["0", "1"], [([0, 1], "0"), ([2, 3], "0"), ([4, 5], "1"), ([6, 7], "1")]),
        (None, 0.4, ["a", "b"], [([0, 1], "a"), ([2, 3], "a"), ([4, 5], "b"), ([6, 7], "b")]),
        (None, 2, ["0", "1", "2", "3", "4"], [([0, 1, 2, 3], "0,1"), ([4, 5, 6, 7], "2,3")]),
    ],
)
def test_shares_of_this_machine(jobs: int | None, gpus_per_job: float | None, gpus: list[str], places: Any) -> None:
    engine = local_engine(Request(jobs, gpus_per_job), EIGHT, gpus)
    assert [(list(slot.cores), slot.gpus) for slot in engine.slots] == places
    assert engine.jobs == len(places)


def test_more_runs_than_cores_share_them() -> None:
    assert [slot.cores for slot in local_engine(Request(4), [2, 5], []).slots] == [(2,), (2,), (5,), (5,)]


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_threads_do_not_depend_on_the_number_of_jobs(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are rounded differently with another number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert local_engine(Request(jobs), EIGHT, []).environment["OMP_NUM_THREADS"] == "8"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local_engine(Request(jobs), EIGHT, []).environment["NUMBA_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("jobs", "gpus_per_job", "nodes", "expected"),
    [
        (2, None, [(4, 0), (4, 0)], (2, 4)),
        (3, None, [(4, 0), (4, 0)], (3, 2)),
        (None, None, [(4, 0), (2, 0)], (3, 2)),
        (None, 0.5, [(8, 2.0), (8, 1.0)], (6, 2)),
        (8, None, [(4, 0), (4, 0)], (8, 1)),
    ],
)
def test_shares_of_a_cluster(jobs: int | None, gpus_per_job: float | None, nodes: Any, expected: Any) -> None:
    assert _jobs_and_cores(Request(jobs, gpus_per_job), nodes) == expected


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (Request(2, 1.0), ["--gpus_per_job 1", "no GPU"]),
        (Request(address="auto"), ["--address auto", "--backend ray"]),
        (Request(backend="dask"), ["--address", "tcp://host:8786"]),
    ],
)
def test_what_cannot_be_is_one_line(request_: Request, parts: list[str]) -> None:
    if request_.backend == "dask":
        pytest.importorskip("dask.distributed")
    with pytest.raises(StudyError) as caught, connect(request_):
        pass
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_few_gpus_are_said() -> None:
    with pytest.raises(StudyError, match=r"--jobs 3 with 1 GPU .* take --jobs 2"):
        local_engine(Request(3), EIGHT, ["0", "1"])
    with pytest.raises(StudyError, match="whole numbers"):
        local_engine(Request(1, 1.5), EIGHT, ["0", "1"])
    with pytest.raises(StudyError, match="place for 2 runs"):
        _jobs_and_cores(Request(3, 1.0), [(8, 2.0)])
    with pytest.raises(StudyError, match="has 2 CPUs"):
        _jobs_and_cores(Request(3), [(1, 0), (1, 0)])
