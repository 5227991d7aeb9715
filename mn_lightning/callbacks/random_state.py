"""Give a resumed run the random numbers of an uninterrupted one."""

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.utilities import rank_zero_warn

from mn_lightning.callbacks._trainer import is_validation_of_fit
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.random_states import random_states, set_random_states
from mn_lightning.utils.restore import rng_untouched


class RandomStateCallback(Callback):
    """Save the random states in checkpoints, and restore them when a fit is resumed.

    Lightning does not do this: if a network draws random numbers, for dropout or for the latents of a GAN, a resumed
    run draws other numbers than an uninterrupted one. With this callback both draw the same, after a checkpoint from
    the end of an epoch or from the middle of one. Saved are the states of Python, NumPy and torch (CPU and device) in
    each process.

    A validation within a training leaves the random states as they were. So it does not matter whether a checkpoint was
    saved before or after it.

    The command line and the studies add it by themselves. Random numbers that worker processes of a DataLoader draw are
    not restored in the middle of an epoch; this package's data do not depend on them.

    Examples:
        >>> trainer = Trainer(callbacks=[RandomStateCallback()], logger=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._after_batch: dict[str, Any] | None = None
        self._interrupted = False
        self._loaded: dict[int, dict[str, Any]] | None = None
        self._device = torch.device("cpu")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit."""
        self._device = trainer.strategy.root_device
        self._after_batch, self._loaded = None, None
        self._interrupted = False

    def state_dict(self) -> dict[str, Any]:
        """The random states of each process, by rank. Every process must call it, as Lightning does."""
        if self._interrupted:
            # Of this process alone, because others may not know of the error. What the failed step drew will be drawn
            # again.
            return {"states": {all_processes().rank: self._after_batch or random_states(self._device)}}
        return {"states": dict(enumerate(all_processes().gather(random_states(self._device))))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the loaded states until the training starts."""
        self._loaded = state_dict["states"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states of the checkpoint."""
        if self._loaded is None:
            return
        loaded, self._loaded = self._loaded, None
        mine = loaded.get(trainer.global_rank)
        if mine is None or len(loaded) != trainer.world_size or not set_random_states(mine, self._device):
            rank_zero_warn(
                f"the checkpoint has the random states of {len(loaded)} processes on {_devices(loaded)}, and this run "
                f"has {trainer.world_size} on {self._device.type}: it draws other random numbers"
            )
        self._after_batch = random_states(self._device)
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.increment_progress_to_evaluation_end = partial(_leave_out, validation, self._device)  # type: ignore[method-assign]
        loop = trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        if (
            epoch.ready == epoch.processed and not loop.restarting
        ):  # a restarted epoch continues, and the next one begins later
            _begin_epoch_again(loop._data_fetcher)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Keep the states from before what may follow: a validation, or a step that fails."""
        self._after_batch = random_states(self._device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states as if there had been no validation; checkpoint callbacks run after this one."""
        if is_validation_of_fit(trainer) and self._after_batch is not None:
            set_random_states(self._after_batch, self._device)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Make a checkpoint that is saved because of the error hold the states from before the failed step."""
        self._interrupted = True


def _devices(loaded: dict[int, dict[str, Any]]) -> str:
    kinds = {kind for states in loaded.values() for kind in states} - {"python", "numpy", "cpu"}
    return " and ".join(sorted(kinds)) or "cpu"


def _leave_out(validation: Any, device: torch.device) -> None:
    """Skip a validation that was over when the checkpoint was saved, or was next; draw no random numbers for it."""
    with rng_untouched(device):
        type(validation).increment_progress_to_evaluation_end(validation)


def _begin_epoch_again(fetcher: _DataFetcher | None) -> None:
    """Make a DataLoader draw its order and its workers' seed once more, from the states that were restored.

    Lightning starts the epoch's iteration before the training starts. A loader with a state of its own has been given
    that state by then, and would lose it.
    """
    if fetcher is not None and not any(hasattr(loader, "state_dict") for loader in fetcher.combined_loader.flattened):
        iter(fetcher)
