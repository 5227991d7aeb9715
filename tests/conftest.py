import pytest
import torch

from mn_lightning import _pieces, functional

torch.set_num_threads(1)  # the tensors of these tests are small


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # what seed_everything leaves behind for a run's processes


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
    for module in (_pieces, functional):
        monkeypatch.setattr(module, "is_eager_cpu", lambda _: False)
