"""What a run's model was and took: read from the model that is trained, not from the study's file."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mn_lightning.callbacks._mixture_companion import missing_companions
from mn_lightning.compare.study.study import Study, StudyError, variant_label
from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.layers.refit import has_mixtures
from mn_lightning.swap.record import MARK, is_swapped, unsaved
from mn_lightning.utils.files import write_atomically

_SEVERAL_MODES = (MixtureNorm, ModeNorm, ModeGroupNorm)
_FILE = "model.json"


class Layer(NamedTuple):
    """A layer that is not as the model's code has it, or that normalizes over several modes.

    Attributes:
        name: qualified name in the model.
        norm: as in ``swap_norms``; the class's name where the model itself has the layer.
        settings: its components and other settings, as ``"K=3, em_iters=2"``.
    """

    name: str
    norm: str
    settings: str


class Facts(NamedTuple):
    """What a run was.

    Attributes:
        layers: see :class:`Layer`.
        parameters: number of trainable parameters.
        missing: a sentence for each callback that mixtures need and the trainer does not have.
        peak_memory: bytes, on a GPU what tensors took, elsewhere all of the process; None before the training's end,
            and where the system does not say.
    """

    layers: list[Layer]
    parameters: int
    missing: list[str]
    peak_memory: int | None


class FactsWriter(Callback):
    """Write a run's facts at the start of its training, and the memory at its end.

    Args:
        study: of the run.
        variant: of the run.
        folder: the run's.

    Raises:
        StudyError: at the start of the training, as :func:`check_baseline`.
    """

    def __init__(self, study: Study, variant: str, folder: Path) -> None:
        self.study = study
        self.variant = variant
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the model: by now every callback has done to it what it does."""
        check_baseline(self.study, self.variant, pl_module)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        before = read_facts(self.folder)
        parameters = sum(value.numel() for value in pl_module.parameters() if value.requires_grad)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        needed = missing_companions(callbacks) if has_mixtures(pl_module) else []
        missing = [f"the trainer has no {kind.__name__}: {kind.purpose}" for kind in needed]
        self._write(trainer, Facts(layers_of(pl_module), parameters, missing, before.peak_memory if before else None))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the memory: the most of this process and of those that were interrupted."""
        facts = read_facts(self.folder)
        peaks = [peak for peak in (_peak_memory(pl_module.device), facts and facts.peak_memory) if peak]
        if facts is not None and peaks:
            self._write(trainer, facts._replace(peak_memory=max(peaks)))

    def _write(self, trainer: Trainer, facts: Facts) -> None:
        if trainer.is_global_zero:
            layers = [layer._asdict() for layer in facts.layers]
            write_atomically(self.folder / _FILE, json.dumps({**facts._asdict(), "layers": layers}, indent=1))


def read_facts(folder: Path) -> Facts | None:
    """Return the facts of the run in ``folder``; None if none are written, as by earlier versions."""
    path = folder / _FILE
    if not path.exists():
        return None
    written = json.loads(path.read_text(encoding="utf-8"))
    return Facts(**{**written, "layers": [Layer(**layer) for layer in written["layers"]]})


def layers_of(model: nn.Module) -> list[Layer]:
    """Return the layers of ``model`` that were swapped, and those with several modes that its own code has made."""
    found = []
    for name, layer in model.named_modules():
        if is_swapped(layer):
            mark: dict[str, Any] = getattr(layer, MARK)
            if mark["norm"] != "batch" or mark["arguments"]:  # else it is what was there
                found.append(Layer(name, mark["norm"], _settings(layer, {**mark["arguments"], **unsaved(mark)})))
        elif isinstance(layer, _SEVERAL_MODES):
            found.append(Layer(name, type(layer).__name__, _settings(layer, {})))
    return found


def check_baseline(study: Study, variant: str, model: nn.Module) -> None:
    """Refuse a baseline with mixtures or modes: what is compared to it would look worse than it is, or better.

    Raises:
        StudyError: ``model`` is that of a baseline of other variants, and holds such layers.
    """
    compared = [name for name in study.variants if name != variant and study.baseline_of(name) == variant]
    held = [name for name, layer in model.named_modules() if isinstance(layer, _SEVERAL_MODES)]
    if compared and held:
        more = f" and {len(held) - 1} more" * (len(held) > 1)
        raise StudyError(
            f"{variant_label(study, variant)} is the baseline of {compared[0]!r} and has a "
            f"{type(model.get_submodule(held[0])).__name__} in {held[0]}{more}; take the swap out of it, or name "
            "another baseline"
        )


def _settings(layer: Any, given: dict[str, Any]) -> str:
    """Write what decides how the layer computes: components and iterations in any case, the rest if it was given."""
    own = {"K": getattr(layer, "n_components", None), "em_iters": getattr(layer, "em_iters", None)}
    rest = {name: value for name, value in given.items() if name not in ("n_components", "em_iters", "activation")}
    texts = [f"{name}={value}" for name, value in {**own, **rest}.items() if value is not None]
    activation = getattr(layer, "activation", None)
    return ", ".join(texts + [f"{type(activation).__name__} inside"] * (activation is not None))


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    # Where a process was started by another one's exec, as here, getrusage would count that one's memory too.
    if sys.platform != "linux" or not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
