import pytest
import torch

torch.set_num_threads(1)  # the tensors of these tests are small


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # what seed_everything leaves behind for a run's processes
