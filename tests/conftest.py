import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from mn_lightning.kernels import pieces, select

torch.set_num_threads(1)  # the tensors of these tests are small
pieces.SMALLEST = 0  # and are computed as large ones are, unless a test asks for the other way

# Without time limits: how long a case takes depends on what else the machine does.
settings.register_profile(
    "default",
    max_examples=70,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", settings.get_profile("default"), max_examples=1000, derandomize=False, print_blob=True
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED", None)  # what seed_everything leaves behind for a run's processes
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)  # before the fixtures of the next module, too


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors in several pieces, as large ones are."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 256)


@pytest.fixture(params=["cpu", "reference"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All backends that this machine can compute with."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 256)
    with select.use(request.param):
        yield
