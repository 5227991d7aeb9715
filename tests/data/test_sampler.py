"""The order of the images: a function of seed and epoch, whatever happens around it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.data import DigitsDataModule
from mn_lightning.data.sampler import EpochDataLoader, EpochShuffle

N = 23


def order(seed: int = 0, epoch: int = 0, length: int = N) -> list[int]:
    sampler = EpochShuffle(length, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def numbers(shuffle: EpochShuffle, num_workers: int = 0) -> DataLoader[tuple[Tensor, ...]]:
    """A loader of the numbers 0..N - 1, four at a time."""
    return EpochDataLoader(TensorDataset(torch.arange(N)), 4, sampler=shuffle, num_workers=num_workers)


def read(loader: DataLoader[tuple[Tensor, ...]]) -> list[int]:
    return torch.cat([batch for (batch,) in loader]).tolist()


def test_an_order_holds_every_index_once() -> None:
    assert sorted(order()) == list(range(N))
    assert len(EpochShuffle(N)) == N
    assert order(length=0) == []


def test_orders_differ_by_seed_and_by_epoch() -> None:
    orders = {tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert tuple(range(N)) not in orders


def test_an_order_depends_on_no_global_random_state() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = order(3, 5)
    torch.manual_seed(2)
    np.random.seed(2)
    assert order(3, 5) == first


def test_reading_an_order_draws_no_global_random_numbers() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    order()
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_the_order_of_a_past_epoch_comes_back() -> None:
    sampler = EpochShuffle(N, 7)
    orders = []
    for epoch in (0, 1, 2, 1):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[1] == orders[3]
    assert list(sampler) == orders[3]


def test_all_places_are_equally_likely() -> None:
    # 600 epochs of 5: an index is expected 120 times at each place, with a standard deviation of 9.8.
    places = np.zeros((5, 5))
    for epoch in range(600):
        places[order(0, epoch, 5), range(5)] += 1
    assert np.abs(places - 120).max() < 5 * 9.8


def test_negative_seed() -> None:
    with pytest.raises(ValueError, match=r"^seed is -1; it takes an integer >= 0$"):
        EpochShuffle(N, -1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_follows_the_sampler(num_workers: int) -> None:
    shuffle = EpochShuffle(N, 1)
    loader = numbers(shuffle, num_workers)
    for epoch in (0, 1):
        shuffle.set_epoch(epoch)
        assert read(loader) == order(1, epoch)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_epoch_can_be_told_after_iter(num_workers: int) -> None:
    shuffle = EpochShuffle(N)
    batches = iter(numbers(shuffle, num_workers))
    shuffle.set_epoch(3)
    assert torch.cat([batch for (batch,) in batches]).tolist() == order(0, 3)


class Recorder(BoringModel):
    """Notes the batches it is given, epoch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: tuple[Tensor]) -> dict[str, Any]:
        self.seen.setdefault(self.current_epoch, []).extend(batch[0].tolist())
        return {"loss": self.layer(torch.zeros(1, 32)).sum()}


def train(folder: Path, max_epochs: int, num_workers: int, checkpoint: Path | None = None) -> Recorder:
    trainer = Trainer(
        max_epochs=max_epochs,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    model = Recorder()
    trainer.fit(model, numbers(EpochShuffle(N, 4), num_workers), ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / "last.ckpt")
    return model


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_training_sees_the_orders_of_an_uninterrupted_one(tmp_path: Path, num_workers: int) -> None:
    whole = train(tmp_path, 4, num_workers)
    assert whole.seen == {epoch: order(4, epoch) for epoch in range(4)}

    train(tmp_path, 2, num_workers)
    resumed = train(tmp_path, 4, num_workers, tmp_path / "last.ckpt")
    assert resumed.seen == {epoch: order(4, epoch) for epoch in (2, 3)}


def test_the_seed_of_the_run_changes_the_order_and_not_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {}
    for seed in ("1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = DigitsDataModule(image_size=8)
        data.setup()
        labels[seed] = [torch.cat([y for _, y in loader()]) for loader in (data.train_dataloader, data.test_dataloader)]
    assert not torch.equal(labels["1"][0], labels["2"][0])
    assert torch.equal(labels["1"][0].sort().values, labels["2"][0].sort().values)
    assert torch.equal(labels["1"][1], labels["2"][1])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_was_used_up_is_not_read_again(num_workers: int) -> None:
    loader, resumed = (numbers(EpochShuffle(N, 1), num_workers) for _ in range(2))
    batches = [batch.tolist() for (batch,) in loader]
    reader = iter(loader)
    for _ in range(3):
        next(reader)
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed) == len(batches)
    if num_workers == 0:
        read_indices: list[int] = []
        resumed.dataset.__getitems__ = lambda keys: [read_indices.append(key) or (torch.tensor(key),) for key in keys]
    assert [batch.tolist() for (batch,) in resumed] == batches[3:]
    if num_workers == 0:
        assert read_indices == [index for batch in batches[3:] for index in batch]
        del resumed.dataset.__getitems__
    assert [batch.tolist() for (batch,) in resumed] == batches  # only once


def test_the_end_of_an_epoch_is_no_part_of_the_next() -> None:
    loader, resumed = (numbers(EpochShuffle(N, 1), 0) for _ in range(2))
    read(loader)
    resumed.load_state_dict(loader.state_dict())
    resumed.sampler.set_epoch(1)
    assert read(resumed) == order(1, 1)
