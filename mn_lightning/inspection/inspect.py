"""Write a folder with pictures of a checkpoint's layers, and a page around them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from mn_lightning.analysis.history import History
from mn_lightning.callbacks import MixtureMonitor
from mn_lightning.inspection.collector import collect
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.inspection.page import GENERATOR, html_page
from mn_lightning.inspection.recorder import Recorded
from mn_lightning.inspection.sections import layer_section, overview_sections
from mn_lightning.utils.checkpoint_file import read_checkpoint
from mn_lightning.utils.tables import print_table

PAGE = "index.html"


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

    The layers are swapped as they were when the checkpoint was saved. The data are the first batches of the validation.
    A module without ``validation_step`` generates its own data with its method ``sample(n)``.

    Args:
        trainer: runs the validation; it logs nothing.
        model: as it was at the start of the training.
        datamodule: its validation data are used.
        ckpt_path: file of the checkpoint.
        layer: which layers, as under ``layers`` of NormSwapCallback; all by default.
        channels: which channels to draw; by default four for each layer.
        folder: the folder to write to. If it exists, it must be empty or an earlier inspection, whose files are
            replaced.
        samples: how many images to look at.

    Returns:
        The page's path.

    Raises:
        InspectionError: there is no checkpoint, no such layer or channel, or no data; or the folder holds something
            else.
    """
    target = Path(folder)
    try:
        content = read_checkpoint(ckpt_path)
    except ValueError as error:
        raise InspectionError(str(error)) from error
    _check_folder(target)
    if samples < 1:
        raise InspectionError(f"samples is {samples}; it takes 1 or more")
    recorder = collect(trainer, model, datamodule, ckpt_path, content, layer, samples)
    found = recorder.recorded()
    if not found:
        raise InspectionError("no layer was called: there was no data; check limit_val_batches and the validation data")
    if not trainer.is_global_zero:
        return target / PAGE
    _check_channels(found, channels)
    histories = _histories(content)
    target.mkdir(parents=True, exist_ok=True)
    sections = overview_sections(target, {name: histories[name] for name in found if name in histories})
    for name, data in found.items():
        sections.append(layer_section(target, name, data, recorder.images, histories.get(name), channels))
    lines = [
        f"{ckpt_path}: {content.get('epoch', 0) + 1} epochs begun, {content.get('global_step', 0)} optimizer steps.",
        f"The numbers are of {recorder.seen} samples; the pictures of activations show as many of them as fit into "
        "16 MB a layer.",
    ]
    (target / PAGE).write_text(html_page(f"Norm layers of {type(model).__name__}", lines, sections), encoding="utf-8")
    rows = [(section.title, *number) for section in sections for number in section.numbers]
    print_table("Inspected layers", ("layer", "number", "value"), rows)
    print(f"Pictures and numbers: {target / PAGE}")
    return target / PAGE


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files that are not ours."""
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


def _check_channels(found: Mapping[str, Recorded], channels: Sequence[int] | None) -> None:
    for name, data in found.items():
        count = data.layer.num_features
        if channels is not None and (not channels or not all(0 <= channel < count for channel in channels)):
            raise InspectionError(f"channels is {list(channels)}; {name} has 0 to {count - 1}, give some of them")


def _histories(content: dict[str, Any]) -> dict[str, History]:
    state = content.get("callbacks", {}).get(MixtureMonitor.__name__, {"histories": {}})
    return {name: History.from_state_dict(history) for name, history in state["histories"].items()}
