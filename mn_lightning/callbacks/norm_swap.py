"""Swap norm layers at the start of a run, and report differences from the checkpoint that it resumes."""

import itertools
from typing import TYPE_CHECKING, Any, Literal, overload

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from mn_lightning.callbacks._mixture_companion import MixtureCompanion, missing_companions
from mn_lightning.layers.refit import has_mixtures, set_sync
from mn_lightning.swap.arguments import (
    BatchArguments,
    GroupArguments,
    MixtureArguments,
    ModeArguments,
    ModeGroupArguments,
    NoArguments,
    NormName,
    SyncedMixtureArguments,
    SyncedModeArguments,
)
from mn_lightning.swap.record import difference, settings_in_checkpoint, swap_settings
from mn_lightning.swap.report import SwapReport
from mn_lightning.swap.selection import LayersFor, LayerSpec
from mn_lightning.swap.surgery import swap_norms
from mn_lightning.utils.tables import print_table

if TYPE_CHECKING:
    from typing_extensions import Unpack


class NormSwapCallback(MixtureCompanion):
    """Swap BatchNorm layers of the LightningModule for another norm before anything else happens to it.

    The swap is made in ``setup``, for every stage. So optimizers see the new parameters, and a checkpoint finds the
    keys that it holds, whether it is resumed or evaluated. A table of the swapped layers is printed once.

    For a model with MixtureNorm layers it adds the callbacks that these need: a ``GMMRefitCallback`` and a
    ``QueueResetCallback``, unless the trainer already has them.

    Args:
        layers: which layers, as in :func:`~mn_lightning.swap.swap_norms`: ``"all"``, ``"first"``, ``"last:2"``, names,
            globs, ``"!stem*"`` to leave some out, or a mapping from these to arguments of the norm.
        norm: name of the norm. Type checkers accept a registered name or an import path as ``NormName("...")``.
        fuse_activation: put the activation that follows a layer inside it (Eq. 38).
        sync: with several processes, whether MixtureNorm and ModeNorm treat their batches as one in training; ``None``
            follows the trainer's ``sync_batchnorm``.
        **norm_args: arguments of the norm for all layers, such as ``n_components=3``.

    Attributes:
        report: what the last ``setup`` replaced; None before the first.

    Raises:
        ValueError: in ``setup``, where :func:`~mn_lightning.swap.swap_norms` raises it; if a ``WeightAveraging``
            callback comes before this one; and for a fit, if the strategy trains a copy of the model in processes that
            it starts (``ddp_spawn``, ``ddp_fork``, ``ddp_notebook``).

    Examples:
        >>> swap = NormSwapCallback(layers=["conv3"], norm="mixture", n_components=3)
        >>> trainer = Trainer(callbacks=[swap], logger=False)

        With different settings for some layers:

        >>> swap = NormSwapCallback({"conv2": {"n_components": 5}, "conv3": {"em_iters": 4}}, norm="mixture")
    """

    @overload
    def __init__(
        self,
        layers: LayersFor[SyncedMixtureArguments] | None = ...,
        norm: Literal["mixture"] = ...,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: "Unpack[MixtureArguments]",
    ) -> None: ...

    @overload
    def __init__(
        self,
        layers: LayersFor[SyncedModeArguments] | None = ...,
        norm: Literal["mode"] = ...,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: "Unpack[ModeArguments]",
    ) -> None: ...

    @overload
    def __init__(
        self,
        layers: LayersFor[ModeGroupArguments] | None = ...,
        norm: Literal["mode_group"] = ...,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: "Unpack[ModeGroupArguments]",
    ) -> None: ...

    @overload
    def __init__(
        self,
        layers: LayersFor[BatchArguments] | None = ...,
        norm: Literal["batch"] = ...,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: "Unpack[BatchArguments]",
    ) -> None: ...

    @overload
    def __init__(
        self,
        layers: LayersFor[GroupArguments] | None = ...,
        norm: Literal["group"] = ...,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: "Unpack[GroupArguments]",
    ) -> None: ...

    @overload
    def __init__(
        self,
        layers: LayersFor[NoArguments] | None = ...,
        norm: Literal["instance", "layer"] = ...,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        layers: LayerSpec | None,
        norm: NormName,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: Any,
    ) -> None: ...

    @overload
    def __init__(
        self,
        *,
        norm: NormName,
        fuse_activation: bool = ...,
        sync: bool | None = ...,
        **norm_args: Any,
    ) -> None: ...

    def __init__(
        self,
        layers: LayerSpec | None = None,
        norm: str = "mixture",
        fuse_activation: bool = False,
        sync: bool | None = None,
        **norm_args: Any,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.norm = norm
        self.fuse_activation = fuse_activation
        self.sync = sync
        self.norm_args = norm_args
        self.report: SwapReport | None = None

    @property
    def state_key(self) -> str:
        """Tells several swaps in one trainer apart. Checkpoints of version 0.1 hold a state under this key."""
        return self._generate_state_key(layers=self.layers or "all", norm=self.norm)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Swap the layers, except those that an earlier stage has swapped."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in itertools.takewhile(lambda callback: callback is not self, callbacks):
            if isinstance(callback, WeightAveraging) and stage == "fit":
                raise ValueError(
                    f"{type(callback).__name__} stands before NormSwapCallback in the trainer's callbacks and averages "
                    "the model as it was before the swap; put it after NormSwapCallback"
                )
        self.report = swap_norms(pl_module, self.layers, NormName(self.norm), self.fuse_activation, **self.norm_args)
        if has_mixtures(pl_module):
            self._bring_companions(trainer, pl_module, stage)
        super().setup(trainer, pl_module, stage)
        trains_a_copy = stage == "fit" and isinstance(
            getattr(trainer.strategy, "launcher", None), _MultiProcessingLauncher
        )
        if trains_a_copy and self.report and self.norm != "batch":
            raise ValueError(
                "NormSwapCallback swaps in the processes that the strategy starts, and the model here would stay as it "
                "is, with weights of other layers; use strategy='ddp', or swap_norms(model) before the fit"
            )
        sync = _synchronizes_batch_norm(trainer) if self.sync is None else self.sync
        for name in (*(layer.name for layer in self.report), *self.report.unchanged):
            if sync or self.sync is not None:  # layers that were SyncBatchNorm are synchronized anyway
                set_sync(pl_module.get_submodule(name), sync)
        if self.report:
            _print_report(self.report)

    def _bring_companions(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the callbacks that mixtures need after this one, if the trainer does not have them."""
        present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self not in present:
            return  # it was not Lightning that called setup
        brought = [companion() for companion in missing_companions(present)]
        behind = present.index(self) + 1
        # A new list, because Lightning is iterating over the old one, and sets up what is in it.
        trainer.callbacks = [*present[:behind], *brought, *present[behind:]]  # type: ignore[attr-defined]
        for callback in brought:
            callback.setup(trainer, pl_module, stage)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Report in one line which settings of this swap differ from those of the run that wrote the checkpoint.

        Layers that do not fit the checkpoint's weights, or that would compute something else from them in evaluation,
        are refused when the weights are loaded.
        """
        if self.report is None:
            return
        then, now = settings_in_checkpoint(checkpoint), swap_settings(pl_module)
        names = [*(layer.name for layer in self.report), *self.report.unchanged]
        if not then and self.norm != "batch":
            rank_zero_warn(
                f"NormSwapCallback({self.norm!r}): the checkpoint was saved before a swap; these layers begin with "
                f"BatchNorm's weights and statistics: {', '.join(names)}"
            )
        changed = [difference(then[name], now[name]) for name in names if name in then and then[name] != now[name]]
        if changed:
            once = "; ".join(dict.fromkeys(changed))
            rank_zero_warn(f"NormSwapCallback({self.norm!r}): the checkpoint has other settings: {once}")


def _synchronizes_batch_norm(trainer: Trainer) -> bool:
    return isinstance(getattr(trainer.strategy, "_layer_sync", None), TorchSyncBatchNorm)


@rank_zero_only
def _print_report(report: SwapReport) -> None:
    print_table("Swapped norm layers", ("name", "old", "new", "shape"), report)
    for note in report.notes:
        print(note)
