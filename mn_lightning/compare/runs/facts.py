"""What a run's model was and how much it needed: read from the trained model, not from the study's file."""

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
    """A layer that was swapped, or that normalizes over several modes.

    Attributes:
        name: qualified name in the model.
        norm: as in ``swap_norms``; the name of the class if the model itself has the layer.
        settings: its components and other settings, such as ``"K=3, em_iters=2"``.
    """

    name: str
    norm: str
    settings: str


class Facts(NamedTuple):
    """The facts of a run.

    Attributes:
        layers: see :class:`Layer`.
        parameters: number of trainable parameters.
        missing: a sentence for each callback that mixtures need but the trainer does not have.
        peak_memory: in bytes: on a GPU that of tensors, elsewhere that of the whole process; None before the training's
            end, and where the system does not tell.
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
        StudyError: at the start of the training, where :func:`check_baseline` raises it.
    """

    def __init__(self, study: Study, variant: str, folder: Path) -> None:
        self.study = study
        self.variant = variant
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the facts from the model, because all callbacks have changed it by now."""
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
        """Add the memory: the maximum over this process and the ones that were interrupted."""
        facts = read_facts(self.folder)
        peaks = [peak for peak in (_peak_memory(pl_module.device), facts and facts.peak_memory) if peak]
        if facts is not None and peaks:
            self._write(trainer, facts._replace(peak_memory=max(peaks)))

    def _write(self, trainer: Trainer, facts: Facts) -> None:
        if trainer.is_global_zero:
            layers = [layer._asdict() for layer in facts.layers]
            write_atomically(self.folder / _FILE, json.dumps({**facts._asdict(), "layers": layers}, indent=1))


def read_facts(folder: Path) -> Facts | None:
    """Return the facts of the run in ``folder``; None if they are missing, as from old versions, or damaged."""
    try:
        written = json.loads((folder / _FILE).read_bytes())
        facts = Facts(**{**written, "layers": [Layer(**layer) for layer in written["layers"]]})
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    numbers = type(facts.parameters) is int and (facts.peak_memory is None or type(facts.peak_memory) is int)
    if not numbers or not isinstance(facts.missing, list):
        return None
    texts = [*facts.missing, *(text for layer in facts.layers for text in layer)]
    return facts if all(isinstance(text, str) for text in texts) else None


def layers_of(model: nn.Module) -> list[Layer]:
    """Return the swapped layers of ``model``, and layers with several modes that its own code has made."""
    found = []
    for name, layer in model.named_modules():
        if is_swapped(layer):
            mark: dict[str, Any] = getattr(layer, MARK)
            if mark["norm"] != "batch" or mark["arguments"]:  # otherwise the layer is the one that was there
                found.append(Layer(name, mark["norm"], _settings(layer, {**mark["arguments"], **unsaved(mark)})))
        elif isinstance(layer, _SEVERAL_MODES):
            found.append(Layer(name, type(layer).__name__, _settings(layer, {})))
    return found


def check_baseline(study: Study, variant: str, model: nn.Module) -> None:
    """Refuse a baseline with mixtures or modes: variants would look worse, or better, than they are beside it.

    Raises:
        StudyError: ``model`` is the baseline of other variants and holds such layers.
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
    """Write how the layer computes: always the components and iterations, other settings if they were given."""
    own = {"K": getattr(layer, "n_components", None), "em_iters": getattr(layer, "em_iters", None)}
    rest = {name: value for name, value in given.items() if name not in ("n_components", "em_iters", "activation")}
    texts = [f"{name}={value}" for name, value in {**own, **rest}.items() if value is not None]
    activation = getattr(layer, "activation", None)
    return ", ".join(texts + [f"{type(activation).__name__} inside"] * (activation is not None))


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    # getrusage would also count the memory of the program that this process ran before its exec.
    if sys.platform != "linux" or not status.exists():
        return None
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
