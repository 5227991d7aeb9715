"""What is sent, counted at the door: ``all_reduce`` is replaced by a clerk who sends nothing."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from mn_lightning import MixtureNorm, ModeNorm
from mn_lightning.kernels.kmeans import SEED_ROWS
from mn_lightning.layers import mixture, mode
from mn_lightning.utils.distributed import Processes


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers in each message."""
    messages: list[int] = []

    def count(tensor: torch.Tensor, *_: Any) -> None:
        messages.append(tensor.numel())

    monkeypatch.setattr(dist, "all_reduce", count)
    for module in (mixture, mode):
        monkeypatch.setattr(module, "all_processes", lambda: Processes(0, 4))
    return messages


@pytest.mark.parametrize("batch", [16, 400])
@pytest.mark.parametrize(("k", "c", "em_iters"), [(1, 5, 1), (3, 8, 2), (4, 8, 7)])
def test_messages_of_a_mixture_norm(k: int, c: int, em_iters: int, batch: int, sent: list[int]) -> None:
    layer = MixtureNorm(c, n_components=k, em_iters=em_iters, sync=True)
    layer(torch.randn(batch, c, 3, 3, requires_grad=True)).sum().backward()
    candidates = 2 + int(torch.tensor(float(k)).log())
    seeding = 4 + c + (k - 1) * (SEED_ROWS + candidates * (c + 1))
    fit = em_iters * (k + 2 * k * c)
    moments = 2 * k + 2 * k * c
    backward = 2 * k * c
    assert sum(sent) == c + seeding + fit + moments + backward  # c for the origin
    assert len(sent) == 1 + 2 + 3 * (k - 1) + em_iters + 4 + 1


@pytest.mark.parametrize("batch", [16, 400])
def test_messages_of_a_mode_norm(batch: int, sent: list[int]) -> None:
    k, c = 2, 8
    layer = ModeNorm(c, n_components=k, sync=True)
    layer(torch.randn(batch, c, 3, 3, requires_grad=True)).sum().backward()
    forward = 2 * k + (c + 1) + 2 * k * c + k * c
    backward = k + 2 * k * c + k * c
    assert sum(sent) == forward + backward


@pytest.mark.parametrize("norm", [MixtureNorm, ModeNorm])
def test_nothing_is_sent_without_sync_or_in_evaluation(norm: type[torch.nn.Module], sent: list[int]) -> None:
    norm(4)(torch.randn(16, 4))
    norm(4, sync=True).eval()(torch.randn(16, 4))
    assert sent == []


def test_a_refit_sends_no_more_than_a_step(sent: list[int]) -> None:
    layer = MixtureNorm(8, refit_iters=2)
    for rows in (16, 400):
        layer(torch.randn(rows, 8))
        sent.clear()
        layer.refit()
        assert sum(sent) < 2 * SEED_ROWS + 500
