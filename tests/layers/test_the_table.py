"""The tests of ``properties``: each is driven by the table, and each finds a layer that lacks its property."""

from pathlib import Path
from typing import Any

import pytest
from helpers import flawed_layers, layers

FOLDER = Path(__file__).parent / "properties"
FILES = sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))


class OfTheFlawed:
    """Keeps the tests of each flawed layer by the property that it lacks, and what came out."""

    def __init__(self) -> None:
        self.outcomes: dict[str, set[str]] = {name: set() for name in FILES}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if self.flaw_of(item) == item.path.stem.removeprefix("test_")]

    @staticmethod
    def flaw_of(item: Any) -> str:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        return "" if case is None else case.flaw

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = Path(report.nodeid.split("::")[0]).stem.removeprefix("test_")
        self.outcomes[name].add(f"{report.when} {report.outcome}")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, set[str]]:
    """All properties of layers that lack them, in a session of pytest inside this one."""
    plugin, ours = OfTheFlawed(), dict(layers.OURS)
    layers.OURS.clear()
    layers.OURS.update(flawed_layers.ROWS)
    options = ["--import-mode=importlib", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:terminal", "-s"]
    try:
        pytest.main([str(FOLDER), *options, "-m", "slow or not slow"], plugins=[plugin])
    finally:
        layers.OURS.clear()
        layers.OURS.update(ours)
    return plugin.outcomes


def test_each_property_has_a_layer_without_it() -> None:
    assert sorted(flawed_layers.FLAWED) == FILES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.processes
@pytest.mark.parametrize("name", FILES)
def test_a_layer_without_the_property_fails(name: str, outcomes: dict[str, set[str]]) -> None:
    assert "call failed" in outcomes[name], outcomes[name]


def test_every_row_can_be_made_and_used() -> None:
    """What the test before takes for a flaw is none of the table."""
    for case in (layers.OURS | layers.TORCHS).values():
        assert case.flaw == ""
        assert case.in_use()(layers.some_input()).shape == layers.SHAPE
