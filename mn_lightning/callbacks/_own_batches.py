"""Training images in an order of one's own, which the training does not notice."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from mn_lightning.data.images import EpochKeys
from mn_lightning.layers.calling import call_model
from mn_lightning.utils.checks import check_at_least, sized_dataset
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.restore import modes_untouched


class OwnBatches:
    """Batches of the training's size, drawn from its dataset at random without replacement, other ones at each step.

    Args:
        owner: the callback's name, for messages.
        batches: how many in each process; fewer where the dataset has not so many.
        loader: a DataLoader, or any iterable of batches, of which the first ``batches`` are taken each time; None takes
            the Trainer's training data.
        seed: of the order.
    """

    def __init__(self, owner: str, batches: int, loader: Any, seed: int) -> None:
        check_at_least(owner, "batches", batches, 1)
        check_at_least(owner, "seed", seed, 0)
        self.owner = owner
        self.batches = batches
        self.loader = loader
        self.seed = seed

    def check(self, trainer: Trainer) -> None:
        """Refuse training data that have no other order than their own.

        Raises:
            ValueError: they are no single DataLoader over a dataset with a length, or their batches are made by a
                batch sampler.
        """
        if self.loader is None:
            self._dataset(trainer)

    def draw(self, trainer: Trainer, module: LightningModule) -> Iterator[Any]:
        """Give the batches, on the device of ``module``. The caller puts random states back."""
        count = 1 if trainer.fast_dev_run else self.batches  # type: ignore[attr-defined]
        source = self._in_own_order(trainer, count) if self.loader is None else self.loader
        for batch in itertools.islice(source, count):
            converted = trainer.precision_plugin.convert_input(batch)
            yield trainer.strategy.batch_to_device(converted, module.device)

    def _in_own_order(self, trainer: Trainer, count: int) -> DataLoader[Any]:
        dataset, loader, processes = self._dataset(trainer), self._training(trainer), all_processes()
        step = trainer.fit_loop.total_batch_idx + 1
        # The fourth number keeps this order apart from those that the data modules draw.
        order = np.random.default_rng((self.seed, step, 0, 3)).permutation(len(dataset))
        size = loader.batch_size or 1
        each = min(count * size, len(order) // processes.size)
        mine: list[Any] = order[processes.rank :: processes.size][:each].tolist()
        if isinstance(loader.sampler, EpochKeys):
            mine = [(loader.sampler.epoch, index) for index in mine]
        return DataLoader(
            dataset,
            batch_size=loader.batch_size,
            sampler=mine,
            # The last batch of a small dataset would be a smaller one, which counts as much as the others.
            drop_last=loader.batch_size is not None and each >= size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )

    def _training(self, trainer: Trainer) -> Any:
        return trainer.train_dataloader

    def _dataset(self, trainer: Trainer) -> Any:
        advice = f"{self.owner} takes one DataLoader over a dataset with a length, or another source as loader=..."
        loader = self._training(trainer)
        dataset = sized_dataset(loader, lambda given: f"the training data is {given}; {advice}")
        if loader.batch_size is None and loader.batch_sampler is not None:
            raise ValueError(f"the training's DataLoader has a batch_sampler, which decides the batches; {advice}")
        return dataset


@contextmanager
def training_modes(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Put ``module``, or a copy of it, into the modes that it is trained in, and back.

    Within a validation all of it is in evaluation mode, and layers that are so in the training too, whose statistics
    someone keeps, could not be told from the others.
    """
    with modes_untouched(module):
        if trainer.validating:
            # Lightning notes them before a validation, to restore them afterwards.
            trainer.fit_loop.epoch_loop.val_loop._module_mode.restore(module)
        yield


def forward_pass(trainer: Trainer, module: LightningModule, batch: Any) -> None:
    """Make the passes whose statistics the norms of ``module`` take, in the trainer's precision."""
    with trainer.precision_plugin.forward_context():
        step = getattr(module, "statistics_step", None)
        if step is None:
            call_model(module, batch, module.device)
        else:
            step(batch)
