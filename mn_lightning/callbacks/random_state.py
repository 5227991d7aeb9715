"""Random numbers of a resumed run that are those of an uninterrupted one."""

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
    """Save the random states in checkpoints, and go on with them when a fit is resumed.

    Lightning does not: where a network draws random numbers, as dropout and the latents of a GAN, a resumed run draws
    others than an uninterrupted one. With this callback both draw the same, after a checkpoint from the end of an epoch
    or from the middle of one. The states are Python's, NumPy's and torch's, on the CPU and on the device, of each
    process.

    So that it does not matter whether a checkpoint was saved before a validation or after it, a validation within a
    training leaves the random states as they were.

    The command line and the studies add it by themselves. What worker processes of a DataLoader draw is not restored in
    the middle of an epoch; this package's data do not depend on it.

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
        """The random states of each process, by rank; every process must call it, as Lightning does."""
        if self._interrupted:
            # Of this process alone: others may know nothing of the error. What a broken step drew is drawn again.
            return {"states": {all_processes().rank: self._after_batch or random_states(self._device)}}
        return {"states": dict(enumerate(all_processes().gather(random_states(self._device))))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the training starts."""
        self._loaded = state_dict["states"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the states of the checkpoint."""
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
        ):  # what restarts goes on, and begins the next one later
            _begin_epoch_again(loop._data_fetcher)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Note the states before what may follow: a validation, or a step that breaks off."""
        self._after_batch = random_states(self._device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on as if there had been no validation; checkpoint callbacks come after this one."""
        if is_validation_of_fit(trainer) and self._after_batch is not None:
            set_random_states(self._after_batch, self._device)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Have a checkpoint that the error brings about hold the states from before the step that broke off."""
        self._interrupted = True


def _devices(loaded: dict[int, dict[str, Any]]) -> str:
    kinds = {kind for states in loaded.values() for kind in states} - {"python", "numpy", "cpu"}
    return " and ".join(sorted(kinds)) or "cpu"


def _leave_out(validation: Any, device: torch.device) -> None:
    """Leave out a validation that was over when the checkpoint was saved, or was to come next; draw nothing for it."""
    with rng_untouched(device):
        type(validation).increment_progress_to_evaluation_end(validation)


def _begin_epoch_again(fetcher: _DataFetcher | None) -> None:
    """Have a DataLoader draw its order and the seed of its workers once more, from the states that were restored.

    Lightning has begun the epoch's iteration before the training starts. A loader that has a state of its own has been
    given it then, and would lose it.
    """
    if fetcher is not None and not any(hasattr(loader, "state_dict") for loader in fetcher.combined_loader.flattened):
        iter(fetcher)
