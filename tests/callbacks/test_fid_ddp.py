"""FIDCallback in 1, 2 and 3 processes, by Lightning's ddp strategy on CPUs."""

from pathlib import Path
from typing import Any

import pytest
from helpers import gloo
from helpers.fid_cases import measure
from helpers.tiny_generator import REAL


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("fid")
    return {devices: gloo.run(measure, devices, folder / f"of {devices}", folder, devices) for devices in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("devices", [2, 3])
def test_same_values_in_any_number_of_processes(results: dict[int, list[dict[str, Any]]], devices: int) -> None:
    expected = results[1][0]["metrics"]
    assert {"fd_plain", "fd_plain/best", "fd_plain/floor", "kd_plain", "fd_train", "fd_few", "fd_uneven"} <= set(
        expected
    )
    assert expected["fd_train"] != pytest.approx(expected["fd_plain"], rel=1e-3)
    for result in results[devices]:
        assert result["metrics"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert result["best"] == pytest.approx(results[1][0]["best"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_exactly_so_many_samples_and_every_process_keeps_its_buffers(
    results: dict[int, list[dict[str, Any]]], devices: int
) -> None:
    assert REAL % 3 == 0
    counts = {"fd_plain": 50, "fd_train": 50, "fd_few": 7, "fd_uneven": 37}
    assert results[devices][0]["counts"] == counts
    for rank, result in enumerate(results[devices]):
        assert result["offset"] == pytest.approx(0.1 + 0.2 * rank)


@pytest.mark.slow
@pytest.mark.processes
def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    others, first = gloo.run(measure, 2, tmp_path, tmp_path, 2, True)
    assert first == "ValueError: only here"
    assert "another process failed" in others
