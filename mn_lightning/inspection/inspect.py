"""From a checkpoint to a folder of pictures with a page around them."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning import plots
from mn_lightning.analysis.distribution import flat_rows, layer_mixture, log_likelihood_gains, typical_channels
from mn_lightning.analysis.history import History
from mn_lightning.analysis.mixtures import posteriors
from mn_lightning.callbacks import MixtureMonitor
from mn_lightning.inspection.collector import Collected, Collector
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.inspection.numbers import layer_numbers, shape_numbers
from mn_lightning.inspection.page import GENERATOR, Picture, Section, html_page
from mn_lightning.layers import MixtureNorm
from mn_lightning.utils.tables import print_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "index.html"
DPI = 80

_ACTIVATIONS = (
    "Left: the layer's inputs in four channels, chosen from the one that a single Gaussian describes best to the one "
    "for which the mixture gains most, with the density that the layer assumes (black), its parts, and the Gaussian "
    "that BatchNorm assumes. Middle and right: the same values normalized by each. Skewness and excess kurtosis are 0 "
    "for a normal distribution; BatchNorm shifts and scales alone, so that it leaves both as they were. A number at ▲ "
    "is the height of a bar that is cut."
)
_EVOLUTION = (
    "Top: the weights of the components, the heaviest first. Below: the density in a few channels, on one axis for a "
    "row, so that narrower and nearer components can be seen. Colours count components by weight: the same colour at "
    "two times need not be the same component."
)
_CLAIMS = (
    "The images that each {what} claims most strongly, the strongest first, with the claim above each: {claim}. On the "
    "left the mean claim, and the share of images in which the claim is the largest of all {what}s. Where "
    "the claims of a row hardly differ, the {what}s do not sort the images, whatever the images look like."
)
_POSTERIOR = (
    "the mean of its posterior over the image's positions; 'where' is its mean over images, from dark (none) to yellow "
    "(all)"
)
_COMPONENTS = (
    "Components in use after each epoch. One that holds less than the layer's min_weight (1% by default) of the data "
    "is dropped. Lines of equal height are drawn beside each other."
)
_NO_HISTORY = (
    "The checkpoint has no record of this layer's training. Add MixtureMonitor to the trainer's callbacks to see how "
    "it got here."
)


def inspect(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    ckpt_path: str,
    layer: str | None = None,
    channels: Sequence[int] | None = None,
    folder: str = "inspection",
    samples: int = 512,
) -> Path:
    """Write PNGs and ``index.html`` about the MixtureNorm and ModeNorm layers of a checkpoint into ``folder``.

    The data are the first batches of the validation; of a module without ``validation_step``, what its method
    ``sample(n)`` generates.

    Args:
        trainer: its callbacks swap the layers; it logs nothing.
        model: as it was at the start of the training.
        datamodule: whose validation data.
        ckpt_path: file of the checkpoint.
        layer: which layers, as under ``layers`` of NormSwapCallback; all by default.
        channels: which channels to draw; by default four for each layer.
        folder: it may be there if it is empty, or an earlier inspection, of which files of the same name are replaced.
        samples: how many images to look at.

    Returns:
        The page's path.

    Raises:
        InspectionError: no checkpoint, no such layer or channel, no data, or a folder with something else in it.
    """
    _check_checkpoint(ckpt_path)
    target = Path(folder)
    _check_folder(target)
    if samples < 1:
        raise InspectionError(f"samples is {samples}; it takes 1 or more")
    collector = _collect(trainer, model, datamodule, ckpt_path, Collector(layer, samples))
    found = collector.collected()
    if not found:
        raise InspectionError("no layer was called: there was no data; check limit_val_batches and the validation data")
    if not trainer.is_global_zero:
        return target / PAGE
    _check_channels(found, channels)
    content = torch.load(ckpt_path, map_location="cpu", weights_only=True)
    histories = _histories(content)
    target.mkdir(parents=True, exist_ok=True)
    sections = _overview(target, {name: histories[name] for name in found if name in histories})
    for name, data in found.items():
        sections.append(_section(target, name, data, collector.images, histories.get(name), channels))
    lines = [
        f"{ckpt_path}: {content.get('epoch', 0) + 1} epochs begun, {content.get('global_step', 0)} optimizer steps.",
        f"Numbers and pictures are of {collector.seen} samples, pictures of activations of as many of them as fit into "
        "16 MB a layer.",
    ]
    (target / PAGE).write_text(html_page(f"Norm layers of {type(model).__name__}", lines, sections), encoding="utf-8")
    rows = [(section.title, *number) for section in sections for number in section.numbers]
    print_table("Inspected layers", ("layer", "number", "value"), rows)
    print(f"Pictures and numbers: {target / PAGE}")
    return target / PAGE


def _check_checkpoint(ckpt_path: str) -> None:
    if not Path(ckpt_path).is_file():
        raise InspectionError(f"checkpoint {ckpt_path!r} is not there; give the path of a .ckpt file")


def _check_folder(folder: Path) -> None:
    """Leave alone what is not ours."""
    if folder.exists() and not folder.is_dir():
        raise InspectionError(f"folder {str(folder)!r} is a file; give another with --folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    page = folder / PAGE
    ours = page.is_file() and f'content="{GENERATOR}"' in page.read_text(encoding="utf-8", errors="replace")
    if not ours:
        raise InspectionError(
            f"folder {str(folder)!r} holds something else than an earlier inspection; give another with --folder"
        )


def _check_channels(found: dict[str, Collected], channels: Sequence[int] | None) -> None:
    for name, data in found.items():
        count = data.layer.num_features
        if channels is not None and (not channels or not all(0 <= channel < count for channel in channels)):
            raise InspectionError(f"channels is {list(channels)}; {name} has 0 to {count - 1}, give some of them")


def _collect(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    ckpt_path: str,
    collector: Collector,
) -> Collector:
    # Nothing of this is a run whose results somebody keeps.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kept = [callback for callback in callbacks if not isinstance(callback, (SaveConfigCallback, Checkpoint))]
    trainer.callbacks = [*kept, collector]  # type: ignore[attr-defined]
    trainer.logger = None
    if is_overridden("validation_step", model):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")  # of the callbacks left out
            trainer.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)
    elif callable(getattr(model, "sample", None)):
        # Lightning prepares the model, for which it wants data; the collector ends the prediction at the first batch.
        trainer.predict(model, DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=ckpt_path)
    else:
        raise InspectionError(
            f"{type(model).__name__} has neither validation_step nor sample; inspect takes a module with one of them"
        )
    return collector


def _histories(content: dict[str, Any]) -> dict[str, History]:
    state = content.get("callbacks", {}).get(MixtureMonitor.__name__, {"histories": {}})
    return {name: History.from_state_dict(history) for name, history in state["histories"].items()}


def _overview(folder: Path, histories: dict[str, History]) -> list[Section]:
    mixtures = {name: history for name, history in histories.items() if "components" in history.values}
    if not mixtures:
        return []
    file = _save(plots.plot_components(mixtures), folder, "components.png")
    return [Section("Components in use", [], [Picture(file, "Components in use over time", _COMPONENTS)], [])]


def _section(
    folder: Path,
    name: str,
    data: Collected,
    images: torch.Tensor,
    history: History | None,
    channels: Sequence[int] | None,
) -> Section:
    layer, stem = data.layer, re.sub(r"[^\w.-]", "_", name)
    notes, pictures = [], []
    is_mixture = isinstance(layer, MixtureNorm)
    if channels is None:
        # The same channels in all pictures, hence of those whose past is known.
        known = list(range(layer.num_features)) if history is None or not history.channels else history.channels
        gains = log_likelihood_gains(flat_rows(data.input), layer_mixture(data.input, layer), layer.eps)
        channels = [known[i] for i in typical_channels(gains[known])]
    figure = plots.plot_activations(data.input, layer, channels, name)
    file = _save(figure, folder, f"{stem}-activations.png")
    pictures.append(Picture(file, f"Activations of {name}", _ACTIVATIONS))
    if history is None or not history.snapshots:
        notes.append(_NO_HISTORY)
    else:
        recorded = [channel for channel in channels if channel in history.channels]
        figure = plots.plot_evolution(history, recorded or None, name)
        file = _save(figure, folder, f"{stem}-evolution.png")
        pictures.append(Picture(file, f"Evolution of {name}", _EVOLUTION))
    if len(data.claims) and len(images):
        what, claim = ("component", _POSTERIOR) if is_mixture else ("mode", "its gate")
        figure = plots.plot_claims(images, data.claims, what, _places(data), name)
        file = _save(figure, folder, f"{stem}-claims.png")
        pictures.append(Picture(file, f"What {name} puts together", _CLAIMS.format(what=what, claim=claim)))
    elif is_mixture and layer.granularity == "channel":
        notes.append("Every channel has a mixture of its own: no component claims an image as a whole.")
    else:
        notes.append("The samples are no images, or not one for each row of the layer's input: none are shown.")
    return Section(name, [*layer_numbers(data), *shape_numbers(data)], pictures, notes)


def _places(data: Collected) -> torch.Tensor | None:
    """Return where in an image each component of a mixture lies, ``(K, h, w)``."""
    if not isinstance(data.layer, MixtureNorm) or data.input.dim() != 4 or data.input.shape[2:].numel() == 1:
        return None
    return posteriors(data.input, data.layer.mixture, data.layer.eps).mean(0)


def _save(figure: "Figure", folder: Path, file: str) -> str:
    figure.savefig(folder / file, dpi=DPI)
    return file
