"""What all callbacks for mixture layers do: look for each other, check checkpoints, adapt Lightning's own callbacks."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from mn_lightning.callbacks._finetuning import forget_treatment, treat_as_batch_norm
from mn_lightning.layers import MixtureNorm, ModeNorm
from mn_lightning.layers.queue import keep_queues_apart
from mn_lightning.layers.refit import has_mixtures, mixture_layers
from mn_lightning.swap.check import check_layers
from mn_lightning.utils.loaders import restore_place


class MixtureCompanion(Callback):
    """Base of the callbacks that mixture layers need; it warns in one line if one of them is missing."""

    purpose = ""
    """What goes wrong without the callback; empty if it can be left out."""

    def __init__(self) -> None:
        super().__init__()
        self._check: RemovableHandle | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare for the checkpoint that may be loaded next, and for averages of weights.

        A checkpoint with other norm layers than the model's is refused in one line. DDP does not broadcast the queues.
        Lightning's callbacks treat our layers as BatchNorm: finetuning callbacks freeze them, and
        StochasticWeightAveraging runs the training batches once more to take the averaged weights' statistics.

        Raises:
            ValueError: weights are averaged, and a queue grows: an average of it cannot be kept.
        """
        self._remove_check()
        self._check = pl_module.register_load_state_dict_pre_hook(_check_before_loading)  # type: ignore[no-untyped-call]
        keep_queues_apart(pl_module)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and stage == "fit":
                _refuse_growing_queues(pl_module, callback)
            if isinstance(callback, BaseFinetuning):
                treat_as_batch_norm(callback)
            if isinstance(callback, StochasticWeightAveraging):
                callback.pl_module_contains_batch_norm = _has_statistics  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn, only once, if a callback is missing: layers may have been swapped without ``NormSwapCallback``."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        first = next(callback for callback in callbacks if isinstance(callback, MixtureCompanion))
        if first is not self or not has_mixtures(pl_module):
            return
        for needed in missing_companions(callbacks):
            rank_zero_warn(
                f"The model holds MixtureNorm layers, but the trainer has no {needed.__name__}: {needed.purpose}. "
                f"Add {needed.__name__}() to the trainer's callbacks."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue in the training data where the checkpoint was saved."""
        restore_place(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo what :meth:`setup` did: after an error or Ctrl-C, Lightning calls no ``teardown``."""
        self._undo(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo what :meth:`setup` did."""
        self._undo(trainer)

    def _undo(self, trainer: Trainer) -> None:
        self._remove_check()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, BaseFinetuning):
                forget_treatment(callback)

    def _remove_check(self) -> None:
        if self._check is not None:
            self._check.remove()
            self._check = None


def missing_companions(callbacks: Sequence[Callback]) -> list[type[MixtureCompanion]]:
    """Return the callbacks that a model with mixtures needs and that are missing in ``callbacks``."""
    kinds = [kind for kind in MixtureCompanion.__subclasses__() if kind.purpose]
    return [kind for kind in kinds if not any(isinstance(callback, kind) for callback in callbacks)]


def _check_before_loading(module: nn.Module, state_dict: Any, prefix: str, *_: Any) -> None:
    if getattr(module, "strict_loading", True):
        check_layers(module, state_dict, prefix)


def _has_statistics(pl_module: nn.Module) -> bool:
    return any(isinstance(module, (_BatchNorm, MixtureNorm, ModeNorm)) for module in pl_module.modules())


def _refuse_growing_queues(pl_module: nn.Module, averaging: WeightAveraging) -> None:
    """Such an average keeps a copy of each buffer in its size at the start."""
    if any(layer.queue.rows_per_batch is None for layer in mixture_layers(pl_module)):
        raise ValueError(
            f"queue_rows_per_batch=None lets a mixture's queue grow, which {type(averaging).__name__} cannot follow; "
            "give a number of rows, such as queue_rows_per_batch=1024, or 'auto'"
        )
