import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from mn_lightning import _pieces

torch.set_num_threads(1)  # the tensors of these tests are small
_pieces.SMALLEST = 0  # and are computed as large ones are, unless a test asks for the other way

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


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED", None)  # what seed_everything leaves behind for a run's processes
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)  # before the fixtures of the next module, too


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors in several pieces, as large ones are."""
    monkeypatch.setattr(_pieces, "PIECE_BYTES", 256)


@pytest.fixture(params=["in pieces", "at once"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute: a CPU's, and that of compilers and other devices."""
    if request.param == "in pieces":
        monkeypatch.setattr(_pieces, "PIECE_BYTES", 256)
        return
    monkeypatch.setattr(_pieces, "is_eager_cpu", lambda _: False)
