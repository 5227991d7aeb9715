"""Training batches in an order of their own, drawn without any effect on the training."""

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
    """Batches of the training's size, drawn from its dataset without replacement; different ones at each step.

    Args:
        owner: the callback's name, for messages.
        batches: number of batches in each process; fewer if the dataset has fewer.
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
        """Refuse training data that cannot be read in another order.

        Raises:
            ValueError: they are not one DataLoader over a dataset with a length, or a batch sampler makes their
                batches.
        """
        if self.loader is None:
            self._dataset(trainer)

    def draw(self, trainer: Trainer, module: LightningModule) -> Iterator[Any]:
        """Yield the batches on the device of ``module``. The caller restores random states."""
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
            # The last batch of a small dataset would be smaller and still count as much as the others.
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
    """Put ``module``, or a copy of it, into the modes of its training, and restore its modes afterwards.

    During a validation every layer is in evaluation mode. Layers that are in evaluation mode in the training too,
    because someone keeps their statistics, could not be told from the others there.
    """
    with modes_untouched(module):
        if trainer.validating:
            # Lightning saves the modes before a validation, to restore them afterwards.
            trainer.fit_loop.epoch_loop.val_loop._module_mode.restore(module)
        yield


def forward_pass(trainer: Trainer, module: LightningModule, batch: Any) -> None:
    """Run the forward passes that give the norms of ``module`` their statistics, in the trainer's precision."""
    with trainer.precision_plugin.forward_context():
        step = getattr(module, "statistics_step", None)
        if step is None:
            call_model(module, batch, module.device)
        else:
            step(batch)
