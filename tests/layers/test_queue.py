"""The ring of recent batches, with rows that say which batch and which place they come from."""

import numpy as np
import pytest
import torch
from helpers import oracle
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mn_lightning.layers.queue import BatchQueue, rows_to_keep

FINITE = torch.tensor(True)


def tagged(batch: int, *shape: int) -> Tensor:
    """An activation ``(N, 2, *)`` whose rows are (batch, index of the row)."""
    n, rest = shape[0], shape[1:]
    index = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(n, 1, *rest)
    return torch.cat([torch.full_like(index, batch), index], dim=1)


def drawn(queue: BatchQueue, decay: float = 1.0, step: int = 0) -> dict[int, list[int]]:
    """Indices of the rows drawn, by batch; checks on the way that none is drawn twice."""
    rows = [tuple(int(v) for v in row) for row in queue.draw(decay, torch.tensor(step)).tolist()]
    assert len(set(rows)) == len(rows)
    out: dict[int, list[int]] = {}
    for batch, index in rows:
        out.setdefault(batch, []).append(index)
    return out


def test_an_empty_queue_draws_nothing() -> None:
    for rows_per_batch in (4, None):
        assert BatchQueue(3, 2, rows_per_batch).draw(0.9, torch.tensor(0)).shape == (0, 3)


@pytest.mark.parametrize("rows_per_batch", [6, 10, None])
def test_ring_keeps_the_newest_batches_newest_first(rows_per_batch: int | None) -> None:
    queue = BatchQueue(2, 3, rows_per_batch)
    for batch in range(8):
        queue.push(tagged(batch, 6), torch.tensor(batch), FINITE)
        found = drawn(queue)
        assert list(found) == list(range(batch, max(-1, batch - 3), -1))
        assert all(sorted(indices) == list(range(6)) for indices in found.values())


@pytest.mark.parametrize("decay", [0.9, 0.5, 1.0])
@pytest.mark.parametrize("rows", [40, 7, 1])
def test_decay_takes_fewer_rows_of_older_batches(rows: int, decay: float) -> None:
    queue = BatchQueue(2, 20, 40)
    for batch in range(25):
        queue.push(tagged(batch, rows), torch.tensor(batch), FINITE)
    found = drawn(queue, decay)
    assert sorted(found) == list(range(5, 25))
    for age in range(20):
        assert len(found[24 - age]) == max(1, round(rows * decay**age))


@pytest.mark.parametrize("kept", [6, 20, None])
def test_a_smaller_last_batch_gives_fewer_rows_in_proportion(kept: int | None) -> None:
    """Also where as many rows of it were kept as of the others; the other batches give what they gave without it."""
    queue = BatchQueue(2, 3, kept)
    for batch, rows in enumerate((20, 20, 8)):
        queue.push(tagged(batch, rows), torch.tensor(batch), FINITE)
    full = kept or 20
    found = drawn(queue, 0.9)
    assert [len(found[batch]) for batch in (2, 1, 0)] == [round(full * 8 / 20), round(full * 0.9), round(full * 0.81)]
    queue.reset()
    queue.push(tagged(0, 8), torch.tensor(0), FINITE)
    assert len(drawn(queue, 0.9)[0]) == min(full, 8)


def test_a_batch_that_is_not_finite_does_not_change_the_size_that_is_known() -> None:
    queue = BatchQueue(2, 1, 6)
    queue.push(tagged(0, 20), torch.tensor(0), FINITE)
    queue.push(tagged(1, 200), torch.tensor(1), ~FINITE)
    assert queue.totals.tolist() == [20]


def test_rows_of_an_old_batch_are_drawn_at_random() -> None:
    queue = BatchQueue(2, 3, None)
    for batch in range(2):
        queue.push(tagged(batch, 10), torch.tensor(batch), FINITE)
    draws = [drawn(queue, 0.5, step)[0] for step in range(1000)]
    counts = np.bincount(np.concatenate(draws), minlength=10)
    assert counts.sum() == 5000
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("rows_per_batch", [1, 7, 16, 23])
@pytest.mark.parametrize("shape", [(48,), (4, 12), (4, 3, 4), (4, 2, 3, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_subsample_consists_of_different_rows_of_the_batch(
    channels_last: bool, shape: tuple[int, ...], rows_per_batch: int
) -> None:
    x = tagged(3, *shape)
    if channels_last and len(shape) > 1:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    queue = BatchQueue(2, 2, rows_per_batch)
    for step in range(5):
        queue.push(x, torch.tensor(step), FINITE)
    queue.reset()
    queue.push(x, torch.tensor(9), FINITE)
    rows = queue.draw(1.0, torch.tensor(0))
    assert rows.shape == (rows_per_batch, 2)
    assert {tuple(r) for r in rows.tolist()} <= {tuple(r) for r in oracle.rows_of(x).tolist()}
    assert len(drawn(queue)[3]) == rows_per_batch


@pytest.mark.parametrize(("total", "kept"), [(20, 8), (20, 15), (21, 10)])
def test_all_rows_of_a_batch_are_equally_likely(total: int, kept: int) -> None:
    queue = BatchQueue(2, 1, kept)
    counts = np.zeros(total)
    for step in range(1500):
        queue.push(tagged(0, total), torch.tensor(step), FINITE)
        counts[drawn(queue)[0]] += 1
    assert counts.sum() == 1500 * kept
    # Rows of one draw lie apart from each other, so that counts vary less than independent ones: a wide band.
    np.testing.assert_allclose(counts / 1500, kept / total, atol=0.06)


def test_the_choice_of_rows_depends_on_the_step_alone() -> None:
    def chosen(step: int, x: Tensor) -> list[int]:
        queue = BatchQueue(2, 1, 8)
        queue.push(x, torch.tensor(step), FINITE)
        return sorted(drawn(queue)[0])

    x = tagged(0, 4, 5, 3)
    first = chosen(1, x)
    torch.rand(3)
    assert first == chosen(1, x)
    assert first == chosen(1, x.contiguous(memory_format=torch.channels_last))
    assert first != chosen(2, x)


def test_smaller_and_larger_batches() -> None:
    """The last batch of an epoch is often smaller; with ``None`` a later batch may be larger than all before.

    Where 6 are kept of 12, half of the rows of smaller batches are given, whatever was kept of them: 2.5, 4.5 and 1.5.
    """
    for rows_per_batch, kept in ((None, [5, 9, 3, 12]), (6, [2, 4, 2, 6])):
        queue = BatchQueue(2, 4, rows_per_batch)
        for batch, size in enumerate([5, 9, 3, 12]):
            queue.push(tagged(batch, size), torch.tensor(batch), FINITE)
        found = drawn(queue)
        assert [len(found[batch]) for batch in range(4)] == kept
        if rows_per_batch is None:
            assert all(sorted(found[b]) == list(range(n)) for b, n in enumerate(kept))
        # Slots that held a larger batch must not give its rows away.
        for batch, size in enumerate([2, 1, 2, 1], start=4):
            queue.push(tagged(batch, size), torch.tensor(batch), FINITE)
        assert {batch: sorted(indices) for batch, indices in drawn(queue).items()} == {
            7: [0],
            6: [0, 1],
            5: [0],
            4: [0, 1],
        }


@pytest.mark.parametrize("rows_per_batch", [4, None])
@pytest.mark.parametrize("pushes", [0, 2, 5])
def test_a_batch_that_is_not_finite_changes_nothing(pushes: int, rows_per_batch: int | None) -> None:
    queue = BatchQueue(2, 3, rows_per_batch)
    for batch in range(pushes):
        queue.push(tagged(batch, 6), torch.tensor(batch), FINITE)
    before = {name: buffer.clone() for name, buffer in queue.named_buffers()}
    found = drawn(queue, 0.9)
    queue.push(torch.full((5, 2), torch.nan), torch.tensor(77), torch.tensor(False))
    assert queue.stale == (pushes > 0)
    for name, buffer in queue.named_buffers():
        if name != "rows" or pushes:  # an empty queue of all rows may make room
            assert torch.equal(buffer, before[name])
    assert queue.rows.isfinite().all()
    assert drawn(queue, 0.9) == found


def test_stale_from_a_push_to_the_next_fit() -> None:
    queue = BatchQueue(2, 2, 4)
    assert not queue.stale
    for batch in range(5):  # further than the ring is long
        queue.push(tagged(batch, 6), torch.tensor(batch), FINITE)
        assert queue.stale
        queue.mark_fitted()
        assert not queue.stale
    queue.push(tagged(5, 6), torch.tensor(5), FINITE)
    queue.reset()
    assert not queue.stale
    assert queue.draw(0.9, torch.tensor(0)).shape == (0, 2)
    queue.push(tagged(6, 6), torch.tensor(6), FINITE)
    assert list(drawn(queue)) == [6]


@pytest.mark.parametrize("size", [1, 20, 50])
@pytest.mark.parametrize("num_features", [1, 64, 128, 512, 2048, 10_000])
def test_default_memory(num_features: int, size: int) -> None:
    rows = rows_to_keep("auto", num_features, size)
    assert 1 <= rows <= 1024
    with torch.device("meta"):
        queue = BatchQueue(num_features, size, rows)
    assert sum(b.numel() * b.element_size() for b in queue.buffers()) < 64e6
    # Not smaller than it need be either: the mixture is only as good as the rows.
    assert rows == 1024 or rows * num_features * size * 4 > 40e6


def test_nothing_is_saved_and_nothing_is_in_the_graph() -> None:
    queue = BatchQueue(2, 2, 4)
    x = tagged(0, 6).requires_grad_()
    queue.push(x, torch.tensor(0), FINITE)
    assert not queue.state_dict()
    assert not queue.rows.requires_grad
    assert not queue.draw(0.9, torch.tensor(0)).requires_grad


def test_the_queue_holds_a_copy() -> None:
    queue = BatchQueue(2, 2, None)
    x = tagged(0, 6)
    queue.push(x, torch.tensor(0), FINITE)
    x.fill_(99)
    assert list(drawn(queue)) == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_take_the_queues_dtype(dtype: torch.dtype) -> None:
    queue = BatchQueue(2, 2, 4).to(dtype)
    for given in (torch.float32, dtype):
        queue.push(tagged(0, 6).to(given), torch.tensor(0), FINITE)
    assert queue.counts.dtype == torch.long
    assert queue.draw(1.0, torch.tensor(0)).dtype == dtype


@pytest.mark.parametrize("rows_per_batch", [4, None])
def test_a_push_does_not_wait_for_the_device(rows_per_batch: int | None) -> None:
    """A fake tensor has no value: reading one raises, as reading ``stale`` here shows."""
    with FakeTensorMode():
        queue = BatchQueue(2, 3, rows_per_batch)
        for batch in range(2):
            x = torch.randn(6 + batch, 2, 3)
            queue.push(x, torch.zeros((), dtype=torch.long), x.isfinite().all())
        with pytest.raises(Exception, match=r"_local_scalar_dense|data-dependent|is_nonzero"):
            _ = queue.stale


def test_extra_repr() -> None:
    assert repr(BatchQueue(2, 3, None)) == "BatchQueue(size=3, rows_per_batch=None)"
