import gc
import os
from collections.abc import Iterator

import pytest
import torch
from helpers.backends import backends
from hypothesis import HealthCheck, settings
from torch import distributed

from mn_lightning.kernels import select
from mn_lightning.kernels.cpu import rows, threads

gc.disable()  # until all tests are collected
torch.set_num_threads(1)  # the tensors of these tests are small

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


NEEDS = {
    "gpu": (torch.cuda.is_available, "there is no GPU"),
    "processes": (lambda: distributed.is_available() and distributed.is_gloo_available(), "this torch has no gloo"),
}
"""What a test with one of these marks needs of the machine."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "nightly" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    for mark, (is_there, reason) in NEEDS.items():
        if not is_there():
            for item in items:
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what is imported: a million objects, half a second each time it looks."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED", None)  # what seed_everything leaves behind for a run's processes
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)  # before the fixtures of the next module, too


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors in several blocks and cuts, as large ones are."""
    monkeypatch.setattr(threads, "CUT_SIZE", 16)
    monkeypatch.setattr(rows, "LONGEST_PLANE_BLOCK", 5)
    monkeypatch.setattr(rows, "LONGEST_ROW_BLOCK", 6)


@pytest.fixture(params=backends())
def backend(request: pytest.FixtureRequest, small_blocks: None) -> Iterator[None]:
    """All backends that this machine can compute with."""
    with select.use(request.param):
        yield
