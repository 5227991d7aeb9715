import pytest
import torch

torch.set_num_threads(1)  # the tensors of these tests are small


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
