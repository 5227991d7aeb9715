"""Run every validation twice: as trained, and with statistics of the current weights."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torchmetrics import Metric

from mn_lightning.callbacks._own_batches import OwnBatches, forward_pass, training_modes
from mn_lightning.callbacks._trainer import log_now
from mn_lightning.layers.update import update_norms
from mn_lightning.utils.distributed import all_processes
from mn_lightning.utils.restore import rng_untouched

CURRENT = "/current"
"""Ending of the name of a metric that was measured with current statistics."""


class CurrentStatisticsCallback(Callback):
    """After each validation of a fit, validate a copy of the model whose statistics are of the current weights.

    If ``validation_step`` logs ``val_acc``, this callback logs ``val_acc/current`` beside it. Model, checkpoints and
    training stay as they are. So you see how much of a result comes from the weights, and how much from the running
    averages and stored mixtures. (With :class:`~mn_lightning.callbacks.UpdateNormsCallback` instead, the model itself
    is evaluated and saved with statistics of the current weights.) Each time it costs the forward passes of ``batches``
    training steps and of a validation, and meanwhile the memory of a second model.

    ``validation_step`` has to log means over images, or torchmetrics, with ``self.log`` or ``self.log_dict``. Values
    that ``on_validation_epoch_end`` logs are not measured again.

    Args:
        batches: number of training batches in each process, as in ``UpdateNormsCallback``.
        loader: source of the batches, as in ``UpdateNormsCallback``.
        seed: of their order.

    Examples:
        >>> from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
        >>> callbacks = [NormSwapCallback(), GMMRefitCallback(), QueueResetCallback(), CurrentStatisticsCallback()]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    def __init__(self, batches: int = 20, loader: Any = None, seed: int = 0) -> None:
        super().__init__()
        self._batches = OwnBatches("CurrentStatisticsCallback", batches, loader, seed)
        self._evaluated: LightningModule | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the source of the batches."""
        self._batches.check(trainer)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Copy the weights that are validated: by now, an average may have taken the place of the current ones."""
        first = batch_idx == 0 and dataloader_idx == 0
        if first and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            # Copies that are made in inference mode could not be written to.
            with torch.inference_mode(False):
                self._evaluated = _copy(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate again."""
        model, self._evaluated = self._evaluated, None
        if model is None:
            return
        with torch.inference_mode(False), torch.no_grad(), rng_untouched(pl_module.device):
            batches = self._batches.draw(trainer, pl_module)
            with training_modes(trainer, model):
                update_norms(model, batches, lambda batch: forward_pass(trainer, model, batch))
            found = _validate(trainer, model, pl_module)
        log_now(trainer, {f"{name}{CURRENT}": value for name, value in found.items()})


def _copy(model: LightningModule) -> LightningModule:
    """Copy a module, but not the functions that it was given, such as the one that makes its optimizer.

    Those of the command line refer to everything that was parsed, even the trainer.
    """
    parts = (value for module in model.modules() for value in vars(module).values())
    shared = {id(part): part for part in parts if callable(part) and not isinstance(part, nn.Module)}
    return copy.deepcopy(model, shared)


class _Log:
    """Stands in for ``LightningModule.log``, and adds the values up."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.sums: dict[str, Tensor] = {}
        self.images = 0
        self.suffix = ""

    def __call__(
        self, name: str, value: Any, *_: Any, batch_size: int | None = None, add_dataloader_idx: bool = True, **__: Any
    ) -> None:
        name += self.suffix if add_dataloader_idx else ""
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        weight = self.images if batch_size is None else batch_size
        # Sum and weight: a mean over all images of all batches and processes.
        pair = torch.tensor([float(value) * weight, weight], dtype=torch.float64)
        self.sums[name] = self.sums.get(name, torch.zeros(2, dtype=torch.float64)) + pair

    def all_of(self, values: dict[str, Any], *_: Any, **options: Any) -> None:
        """Stand in for ``LightningModule.log_dict``."""
        for name, value in values.items():
            self(name, value, **options)

    def values(self, device: torch.device) -> dict[str, float]:
        """Return the means over all batches of all processes; every process must call it."""
        found = {name: float(metric.compute()) for name, metric in self.metrics.items()}
        for name, pair in self.sums.items():
            (total,) = all_processes().sum(pair.to(device, torch.float32))
            found[name] = float(total[0] / total[1])
        return found


def _validate(trainer: Trainer, model: LightningModule, original: LightningModule) -> dict[str, float]:
    log = _Log()
    vars(model)["log"] = log
    vars(model)["log_dict"] = log.all_of
    for module in model.modules():
        if isinstance(module, Metric):
            module.reset()
    model.eval()
    for which, arguments in _batches(trainer, original):
        # Lightning's names for values of one of several loaders.
        log.suffix = f"/dataloader_idx_{which}" if len(trainer.num_val_batches) > 1 else ""
        log.images = extract_batch_size(arguments[0])
        with trainer.precision_plugin.val_step_context():
            model.validation_step(*arguments)
    return log.values(original.device)


def _batches(trainer: Trainer, module: LightningModule) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the number of the loader and the arguments for each call of ``validation_step``."""
    takes = module.validation_step.__code__.co_argcount - 1
    given: Any = trainer.val_dataloaders
    loaders = given if isinstance(given, (list, tuple)) else [given]
    for which, (loader, count) in enumerate(zip(loaders, trainer.num_val_batches, strict=True)):
        stop = None if count == float("inf") else int(count)
        for index, batch in enumerate(itertools.islice(loader, stop)):
            converted = trainer.precision_plugin.convert_input(batch)
            moved = trainer.strategy.batch_to_device(converted, module.device)
            yield which, (moved, index, which)[:takes]
