"""Draw a study's layers: Figures 1, 5 and 6 of Kalayeh & Shah, Figure 2 of Deecke et al."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer

from mn_lightning.compare.runs.run import Run
from mn_lightning.compare.study.fit import StudyCLI
from mn_lightning.compare.study.study import Study, variant_label
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.inspection.inspect import PAGE, inspect

FOLDER = "layers"
"""Folder of the pictures, inside the study's folder."""


def draw_layers(study: Study, runs: Sequence[Run], root: Path) -> list[str]:
    """For each variant under ``inspect``, draw the layers of its first finished seed.

    Args:
        study: says which variants.
        runs: those that have finished.
        root: the study's folder; a folder for each variant is made in ``layers``.

    Returns:
        Lines for the report: for each variant, the page's path in the study's folder and its pictures, or the reason
        why there is no page.
    """
    lines: list[str] = []
    for variant, options in study.inspect.items():
        run = next((run for run in runs if run.variant == variant and run.checkpoint_path.exists()), None)
        if run is None:
            continue
        page = Path(FOLDER, variant, PAGE)
        try:
            _inspect(run, root / page.parent, options)
        except InspectionError as error:
            lines += [f"{run.label}: {error}", ""]
            continue
        lines += [f"{run.label} ([with numbers](<{page}>)):", ""]
        pictures = sorted(path.relative_to(root) for path in (root / page.parent).glob("*.png"))
        lines += [line for path in pictures for line in (f"![](<{path}>)", "")]
    return lines


def _inspect(run: Run, folder: Path, options: dict[str, object]) -> None:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these messages came with the run already
        cli = StudyCLI(variant_label(run.study, run.variant), run.arguments, until="built", save_config_callback=None)
        inspect(trainer, cli.model, cli.datamodule, str(run.checkpoint_path), folder=str(folder), **options)  # type: ignore[arg-type]
