"""Log numbers about mixtures and gates after each epoch of a training."""

import math
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mn_lightning.analysis.gates import gate_statistics, gate_sums, gates
from mn_lightning.analysis.history import History
from mn_lightning.analysis.mixtures import mixture_statistics, row_statistics, row_sums
from mn_lightning.callbacks._trainer import is_new_fit, is_validation_of_fit, log_now, optimizer_steps, training_steps
from mn_lightning.callbacks.update_norms import freshen
from mn_lightning.functional.mixture import fit_mixture, mixture_moments
from mn_lightning.kernels.types import Mixture
from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.utils.distributed import ALONE, all_processes
from mn_lightning.utils.recompute import is_recomputing

COLLAPSED = 0.99
"""A layer has collapsed if one component or mode holds more than this share of the data."""

EVERY_N_BATCHES = 32
"""Gates and fits are computed once more for every 32nd batch only: for every batch it would take too long."""

Gated = ModeNorm | ModeGroupNorm


class MixtureMonitor(Callback):
    """After each training epoch, log what the MixtureNorm, ModeNorm and ModeGroupNorm layers do with their data.

    Names are ``LAYER/NUMBER``. For a MixtureNorm, the numbers describe its stored mixture and the queued rows that this
    was fitted to:

    - ``components``: how many are in use;
    - ``entropy`` of their weights, ``smallest_weight`` and ``largest_weight``;
    - ``separation``: the distance between their means, in units of their spread;
    - ``confident``: the share of rows whose largest posterior is above 0.9;
    - ``log_likelihood_gain`` over a single Gaussian, in nats per row and dimension;
    - ``training_components``: how many components the training used: the mean over the epoch's last batch and every
      32nd one, which are fitted once more for this (not in a compiled network).

    For the gated layers, the numbers are means over the epoch's last batch and every 32nd one:

    - ``gate_0``, ``gate_1``, ...: the mean gate of each mode;
    - ``share_0``, ...: the share of samples, or channels, whose largest gate is this mode's;
    - ``gate_entropy``, in nats.

    See :mod:`mn_lightning.analysis`. A number that does not exist is left out, such as the separation of one component.

    Stale mixtures are refitted first, so the callback's place in the trainer's list does not matter. Numbers are taken
    before checkpoints are saved, so ``ModelCheckpoint(monitor=...)`` can use them. Under DDP they are computed from the
    rows of all processes. Within an epoch nothing waits for the device.

    Checkpoints hold the numbers, and for each layer at most 20 mixtures of at most 64 channels. For K components that
    is up to 4·20·K·(2·64 + 1) bytes a layer, 31 kB for K = 3, and 4 bytes for each number and epoch. ``mn-lightning
    inspect`` draws them.

    If one component or mode has held more than 99% of a layer's data for an epoch, there is one warning for that layer.

    Attributes:
        histories: the recorded numbers and mixtures, by the layer's name.

    Examples:
        >>> from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
        >>> callbacks = [NormSwapCallback(), GMMRefitCallback(), QueueResetCallback(), MixtureMonitor()]
        >>> trainer = Trainer(callbacks=callbacks, logger=False)
    """

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[str, History] = {}
        self._recorded_at = 0
        self._mixtures: dict[str, MixtureNorm] = {}
        self._gated: dict[str, Gated] = {}
        self._watch = _GateWatch()
        self._handles: list[RemovableHandle] = []
        self._said: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what was recorded with another trainer."""
        if is_new_fit(trainer, stage):
            self.histories, self._recorded_at, self._said = {}, 0, set()

    def state_dict(self) -> dict[str, Any]:
        """Return the histories."""
        histories = {name: history.state_dict() for name, history in self.histories.items()}
        return {"recorded_at": self._recorded_at, "histories": histories}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was saved."""
        self._recorded_at = state_dict["recorded_at"]
        self.histories = {name: History.from_state_dict(state) for name, state in state_dict["histories"].items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the layers, and watch the gates."""
        self._remove_hooks()
        modules = dict(pl_module.named_modules())
        self._mixtures = {name: layer for name, layer in modules.items() if isinstance(layer, MixtureNorm)}
        self._gated = {name: layer for name, layer in modules.items() if isinstance(layer, Gated)}
        self._watch = _GateWatch()
        # For the whole training and not for single batches: torch.compile sees only hooks that were there before it
        # ran.
        self._handles = [
            layer.register_forward_pre_hook(_GateHook(self._watch, name)) for name, layer in self._gated.items()
        ]
        self._handles += [
            layer.register_forward_pre_hook(_CountHook(self._watch, name)) for name, layer in self._mixtures.items()
        ]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start new sums."""
        self._watch.sums = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at every 32nd batch and at the last one."""
        self._watch.looking = batch_idx % EVERY_N_BATCHES == 0 or trainer.is_last_batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Look away."""
        self._watch.looking = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record if this is the validation after the epoch's last batch, because checkpoints are saved next."""
        if is_validation_of_fit(trainer) and trainer.is_last_batch:
            self._record(trainer, pl_module, after_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record, unless a validation has already done so in this epoch."""
        self._record(trainer, pl_module, after_epoch=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo what was done to the module: after an error or Ctrl-C, Lightning calls no ``teardown``."""
        self._remove_hooks()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo what was done to the module."""
        self._remove_hooks()
        self._mixtures, self._gated = {}, {}

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _record(self, trainer: Trainer, pl_module: LightningModule, after_epoch: bool) -> None:
        # A resumed run may reach the end of an epoch that is already recorded in its checkpoint.
        if optimizer_steps(trainer) == self._recorded_at or not (self._mixtures or self._gated):
            return
        self._recorded_at = optimizer_steps(trainer)
        freshen(trainer, pl_module)
        epoch, step = trainer.current_epoch + 1, training_steps(trainer)
        found = self._measure(pl_module.device)
        for name, values in found.items():
            history = self.histories.setdefault(name, History())
            history.record(epoch, step, values, self._mixture_of(name, values))
            self._say_if_collapsed(name, values, epoch)
        named = {f"{name}/{key}": value for name, values in found.items() for key, value in values.items()}
        log_now(trainer, named, after_epoch)

    def _measure(self, device: torch.device) -> dict[str, dict[str, float]]:
        """Return the numbers of each layer that has seen data. They are the same in all processes."""
        sums = {name: _row_sums(layer) for name, layer in self._mixtures.items()}
        sums |= {_COUNTED + name: self._watch.sums.get(name, torch.zeros(2, device=device)) for name in self._mixtures}
        for name, layer in self._gated.items():
            nothing = layer.gate.bias.new_zeros(2 + 2 * layer.n_components, dtype=torch.float32)
            sums[name] = self._watch.sums.get(name, nothing)
        # One message for all layers.
        total = all_processes().sum(*(value.to(device, torch.float32) for value in sums.values()))
        totals = dict(zip(sums, total, strict=True))
        numbers: dict[str, dict[str, Tensor]] = {}
        for name, mixture in self._mixtures.items():
            shape = mixture_statistics(mixture.mixture, mixture.eps, mixture.granularity)
            looked, used = totals[_COUNTED + name]
            in_training = {"training_components": torch.where(looked > 0, used / looked, torch.nan)}
            numbers[name] = {**shape, **row_statistics(totals[name]), **in_training}
        numbers |= {name: gate_statistics(totals[name]) for name in self._gated}
        # The device is waited for once.
        flat = torch.stack([totals[name][0] for name in numbers] + [v for n in numbers.values() for v in n.values()])
        counts, values = flat[: len(numbers)].tolist(), iter(flat[len(numbers) :].tolist())
        floats = [{key: next(values) for key in found} for found in numbers.values()]
        return {
            name: {key: value for key, value in found.items() if not math.isnan(value)}
            for name, found, count in zip(numbers, floats, counts, strict=True)
            if count > 0
        }

    def _mixture_of(self, name: str, values: dict[str, float]) -> Mixture | None:
        """Return the mixture that models the layer's data; for a ModeNorm, the mean gates with the running moments."""
        if name in self._mixtures:
            return self._mixtures[name].mixture
        layer = self._gated[name]
        if isinstance(layer, ModeGroupNorm):
            return None
        weights = torch.tensor([values[f"gate_{k}"] for k in range(layer.n_components)])
        return Mixture(weights, layer.running_mean, layer.running_var)

    def _say_if_collapsed(self, name: str, values: dict[str, float], epoch: int) -> None:
        mixture = self._mixtures.get(name)
        what, count = ("component", mixture.n_components) if mixture else ("mode", self._gated[name].n_components)
        largest = values["largest_weight"] if mixture else max(values[f"gate_{k}"] for k in range(count))
        if count == 1 or name in self._said or largest <= COLLAPSED:
            return
        self._said.add(name)
        rank_zero_warn(
            f"{name} has collapsed: one of its {count} {what}s held {largest:.1%} of the data in epoch {epoch}. It "
            f"now normalizes as a layer with one {what} does, which is cheaper; give it fewer if it stays so."
        )


_COUNTED = "training components of "


class _GateWatch:
    """Sums over those batches of an epoch that are looked at, by layer."""

    def __init__(self) -> None:
        self.looking = False
        self.sums: dict[str, Tensor] = {}


class _GateHook:
    """Adds up the gates of one layer. It holds no reference to the trainer: copies of the model would copy it too."""

    def __init__(self, watch: _GateWatch, name: str) -> None:
        self.watch = watch
        self.name = name

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.watch.looking and layer.training:
            new = gate_sums(gates(args[0].detach(), cast(Gated, layer))).float()
            self.watch.sums[self.name] = self.watch.sums[self.name] + new if self.name in self.watch.sums else new


class _CountHook:
    """Adds up the number of components that one layer finds in its batches, without waiting for the device."""

    def __init__(self, watch: _GateWatch, name: str) -> None:
        self.watch = watch
        self.name = name

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.compiler.is_compiling() or not self.watch.looking or not layer.training or is_recomputing():
            return
        mixture, x = cast(MixtureNorm, layer), args[0].detach()
        processes = all_processes() if mixture.sync else ALONE
        settings = (mixture.eps, mixture.granularity)
        # The step that the layer is about to make, and so the same random numbers and the same fit.
        step = mixture.num_batches_tracked + 1
        fit = (mixture.n_components, mixture.em_iters, step)
        fitted = fit_mixture(x, *fit, *settings, processes, mixture.fit_rows)
        weights = mixture_moments(x, fitted, *settings, mixture.min_weight, processes).weights
        used = (weights > 0).sum(0).float().mean()
        new = torch.stack([torch.ones_like(used), used])
        self.watch.sums[self.name] = self.watch.sums[self.name] + new if self.name in self.watch.sums else new


def _row_sums(layer: MixtureNorm) -> Tensor:
    """Sums over the rows that the stored mixture was fitted to: at the same step, the queue draws the same rows."""
    rows = layer.queue.draw(layer.queue_decay, layer.num_batches_tracked)
    return row_sums(rows, layer.mixture, layer.eps, layer.granularity)
