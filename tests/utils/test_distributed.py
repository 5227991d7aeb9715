"""What processes do together, in one process and in three that gloo connects."""

from pathlib import Path

import pytest
import torch
from helpers import gloo
from helpers.distributed_cases import together
from torch import Tensor

from mn_lightning.utils.distributed import ALONE, Processes, all_processes


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 5, 7, 100])
def test_shares_cover_the_whole_in_order(size: int, total: int) -> None:
    shares = [Processes(rank, size).share(total) for rank in range(size)]
    assert [index for share in shares for index in share] == list(range(total))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths[0] == max(lengths) == ALONE.longest_share(total) // size + (total % size > 0)


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert all_processes() is ALONE
    assert ALONE.sum(x, 2 * x)[0] is x
    assert ALONE.concatenate(x) is x
    assert ALONE.on_rank_zero(lambda: {"a": 1.5}) == {"a": 1.5}
    with pytest.raises(KeyError, match="missing"):
        ALONE.together(lambda: {}["missing"])


@pytest.mark.slow
@pytest.mark.processes
def test_three_processes(tmp_path: Path) -> None:
    found = gloo.run(together, 3, tmp_path)
    xs = [torch.arange(3.0) + rank for rank in range(3)]
    for rank, result in enumerate(found):
        expected: dict[str, Tensor] = {
            "sum": sum(xs),
            "square": sum(x.square() for x in xs),
            "gradient": 3 + (1 + 2 + 3) * 2 * xs[rank],  # every process' loss depends on every process' numbers
            "max": torch.tensor([2.0, 0.0]),
            "mine": torch.tensor([0.5, 1.5, 2.5]),
            "joined": torch.tensor([1, 1, 2, 2, 2, 2]).view(6, 1).expand(6, 3),
            "features": torch.tensor([[0.0], [0.0], [0.25]]),
            "flags": torch.tensor([False, True, False]),
            "nothing": torch.zeros(0, 5),
        }
        for name, value in expected.items():
            torch.testing.assert_close(result[name], value, msg=name)
        assert result["rank"] == (rank, 3)
        assert result["works"] == rank
        assert result["zero"] == {"from": 0}
        other = "RuntimeError: another process failed; its error says why"
        assert result["fails"] == ("ValueError: only here" if rank == 2 else other)
        assert result["zero fails"] == ("ValueError: only here" if rank == 0 else other)
        mean, unsaved = result["buffers"]
        assert mean.tolist() == [0, 0]
        assert float(unsaved) == rank
