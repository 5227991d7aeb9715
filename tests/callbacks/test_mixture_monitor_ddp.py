"""Two processes: all ranks hold the same history, that of all rows."""

from pathlib import Path

import pytest
from helpers import gloo
from helpers.monitor_cases import fit

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def test_ranks_agree_with_each_other_and_with_one_process(tmp_path: Path) -> None:
    first, second = gloo.run(fit, 2, tmp_path / "two", tmp_path / "logs", 2)
    assert first == second
    alone = fit(0, tmp_path / "alone", 1)
    assert set(first) == set(alone) == {"network.1", "network.5"}
    for name, (steps, values) in alone.items():
        assert first[name][0] == steps == [4, 8]
        for number, series in values.items():
            if name == "network.1":  # mixtures are refitted from other seeds
                assert first[name][1][number] == pytest.approx(series, abs=1e-3), number
        assert set(first[name][1]) == set(values)
    assert len(list((tmp_path / "logs").rglob("metrics.csv"))) == 1
