"""Write the report into the study's folder: ``report.md``, ``results.csv`` and pictures, from the finished runs."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from mn_lightning.callbacks.current_statistics import CURRENT
from mn_lightning.compare.report.curves import plot_curves
from mn_lightning.compare.report.models import missing_callbacks, models_table
from mn_lightning.compare.report.pictures import draw_layers
from mn_lightning.compare.report.results import Comparison, Curves, compare_variants, curve, first_not_finite
from mn_lightning.compare.report.samples import plot_samples
from mn_lightning.compare.report.tables import (
    NOTHING,
    Table,
    better,
    difference_table,
    markdown,
    number,
    race_table,
    score_table,
    sentences,
)
from mn_lightning.compare.report.verdicts import counted_seeds
from mn_lightning.compare.runs.recorder import to_csv
from mn_lightning.compare.runs.run import Run, runs_in
from mn_lightning.compare.study.folder import StudyFolder
from mn_lightning.compare.study.study import Limits, Study
from mn_lightning.utils.files import write_atomically
from mn_lightning.utils.tables import print_table


def write_report(folder: StudyFolder, command: str) -> tuple[list[Table], list[str]]:
    """Write the report into the folder. Runs that have not finished are named, but are not in the numbers.

    Args:
        folder: of the study.
        command: the command line that made the runs, to be shown in the report.

    Returns:
        The report's tables and sentences.
    """
    study, runs = folder.study, runs_in(folder)
    finished = [run for run in runs if run.finished]
    views = [(view, _comparisons(view, metric, finished)) for view, metric in _views(study, finished)]
    tables = [table(*view) for view in views for table in (score_table, race_table, difference_table)]
    if (compared := models_table(study, finished)) is not None:
        tables.insert(0, compared)
    lines = [*missing_callbacks(finished), *(line for view in views for line in sentences(*view)), *_broken(finished)]
    _write_csv(folder.root / "results.csv", finished)
    floor = _floor(study, finished)
    pictures = ["curves.png", *(f"curves_{position}.png" for position in range(2, len(views) + 1))]
    for (view, comparisons), name in zip(views, pictures, strict=True):
        plot_curves(view, comparisons, floor if view.metric == study.metric else None).savefig(
            folder.root / name, dpi=150
        )
    text = [f"# {study.name}", "", _introduction(study), "", *(f"![]({name})\n" for name in pictures)]
    if floor is not None:
        lines.append(
            f"The {study.metric} of two random halves of the real images, the dotted line, is {number(floor)}."
        )
    samples = plot_samples(study, finished)
    if samples is not None:
        samples.savefig(folder.root / "samples.png", dpi=150)
        text += ["Samples at each run's best evaluation, of the same latents:", "", "![](samples.png)", ""]
    layers = draw_layers(study, finished, folder.root)
    if layers:
        text += ["## Layers", "", *layers]
    for table in tables:
        text += table.to_markdown()
    text += ["## Sentences", "", *(f"- {line}" for line in lines), ""]
    text += ["## Runs", "", *markdown(["variant", "seed", "status", "seconds"], _statuses(runs)), ""]
    text += ["## Made by", "", *(f"- {line}" for line in _provenance(folder.limits, command, finished)), ""]
    write_atomically(folder.root / "report.md", "\n".join(text))
    return tables, lines


def print_report(tables: Iterable[Table], lines: Iterable[str]) -> None:
    """Print what :func:`write_report` returned: first what was compared, then the sentences and the other tables."""
    first, *others = tables
    print_table(first.title, first.header, first.rows, compact=True)
    for line in lines:
        print(line)
    for table in others:
        print_table(table.title, table.header, table.rows, compact=True)


def _views(study: Study, runs: Sequence[Run]) -> list[tuple[Study, str]]:
    """Return the metrics to report: the study with the metric's name for people, and its name in the records.

    The study's own metric comes first, then the same with statistics of the current weights, if the runs measured that.
    """
    logged = {name for run in runs for row in run.rows() for name in row}
    views = [(study, study.metric)]
    current = f"{study.metric}{CURRENT}"
    if current in logged:
        views = [(replace(study, metric=f"{study.metric} as trained"), study.metric)]
        views.append((replace(study, metric=f"{study.metric} with statistics of the current weights"), current))
    views += [
        (replace(study, metric=name, published=numbers, references={}), name)
        for name, numbers in study.also.items()
        if name in logged
    ]
    return views


def _comparisons(study: Study, metric: str, runs: Sequence[Run]) -> list[Comparison]:
    return compare_variants(
        study,
        [
            Curves(
                variant,
                {run.seed: curve(run.rows(), metric) for run in runs if run.variant == variant},
                frozenset(run.seed for run in runs if run.variant == variant and first_not_finite(run.rows())),
            )
            for variant in study.variants
        ],
    )


def _broken(runs: Iterable[Run]) -> list[str]:
    """Name the runs that logged a value that is not finite."""
    found = [(run.label, *where) for run in runs if (where := first_not_finite(run.rows()))]
    return [f"{label}: {name} is not finite at step {step:.0f}." for label, name, step in found]


def _floor(study: Study, runs: Iterable[Run]) -> float | None:
    """Return the distance of real images to real ones, if FIDCallback was asked to log it."""
    name = f"{study.metric}/floor"
    return next((row[name] for run in runs for row in run.rows() if name in row), None)


def _write_csv(path: Path, runs: Sequence[Run]) -> None:
    rows = [
        {"variant": run.variant, "seed": run.seed, **row, "epoch": int(row["epoch"]), "step": int(row["step"])}
        for run in runs
        for row in run.rows()
    ]
    write_atomically(path, to_csv(rows))


def _introduction(study: Study) -> str:
    baselines = f"baseline is {study.baseline}"
    if not isinstance(study.baseline, str):
        baselines = f"baselines are {', '.join(study.baselines)}"
    return (
        f"{len(study.variants)} variants, {counted_seeds(len(study.seeds))}; the metric is {study.metric}, "
        f"{better(study)}; the {baselines}.{_published_by(study)}"
    )


def _published_by(study: Study) -> str:
    if not study.published or study.paper is None:
        return ""
    name = study.table or ""
    table = f", Table {name}" if name[:1].isdigit() else name and f", {name}"
    return f" Published numbers: {study.paper}{table}."


def _statuses(runs: Iterable[Run]) -> list[list[str]]:
    rows = []
    for run in runs:
        outcome = run.outcome()
        if outcome is None:
            rows.append([run.variant, str(run.seed), "not finished", NOTHING])
        else:
            status = outcome.status + (f": {outcome.error}".replace("|", "\\|") if outcome.error else "")
            rows.append([run.variant, str(run.seed), status, f"{outcome.seconds:.0f}"])
    return rows


def _provenance(limits: Limits, command: str, runs: Sequence[Run]) -> list[str]:
    lines = [f"command: `{command}`", f"date: {datetime.now(timezone.utc):%Y-%m-%d}"]
    made: dict[str, list[str]] = {}
    for run in runs:
        for maker in run.made_by or (None,):
            words = "not recorded" if maker is None else maker.words
            made.setdefault(words, []).append(run.label)
    for words, labels in made.items():
        lines.append(f"{'all runs' if len(labels) == len(runs) else '; '.join(labels)}: {words}")
    if limits.epochs is not None:
        lines.append(f"limited to {limits.epochs} epochs")
    if limits.samples is not None:
        lines.append(f"limited to {limits.samples} training samples an epoch")
    return lines
