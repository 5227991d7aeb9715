from pathlib import Path
from typing import Any

from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, trainer
from lightning.pytorch import Callback, LightningModule, Trainer


class Queued(Callback):
    """Number of batches in the queues, before the first and after each training batch."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._record(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._record(pl_module)

    def _record(self, model: LightningModule) -> None:
        (count,) = {int((layer.queue.counts > 0).sum()) for layer in mixtures(model)}
        self.counts.append(count)


def test_queues_are_empty_at_the_start_of_each_epoch(tmp_path: Path) -> None:
    queued = Queued()
    trainer(tmp_path, [*mixture_callbacks(), queued]).fit(classifier(), digits())
    assert queued.counts == 2 * list(range(BATCHES + 1))


def test_a_validation_within_the_epoch_keeps_them(tmp_path: Path) -> None:
    queued = Queued()
    trainer(tmp_path, [*mixture_callbacks(), queued], val_check_interval=2).fit(classifier(), digits())
    assert queued.counts == 2 * list(range(BATCHES + 1))


def test_queues_hold_no_more_than_their_size(tmp_path: Path) -> None:
    queued = Queued()
    trainer(tmp_path, [*mixture_callbacks(queue_size=3), queued], max_epochs=1).fit(classifier(), digits())
    assert queued.counts == [0, 1, 2, 3, 3, 3]
