"""The study's folder: ``report.md``, ``results.csv`` and pictures, made from the runs that have finished."""

import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from mn_lightning.compare.report.curves import plot_curves
from mn_lightning.compare.report.results import (
    CONFIDENCE,
    Curves,
    Difference,
    Race,
    Summary,
    best_after,
    curve,
    paired_difference,
    race,
    summarize,
)
from mn_lightning.compare.report.samples import plot_samples
from mn_lightning.compare.runs.recorder import to_csv
from mn_lightning.compare.runs.train import Limits, Run
from mn_lightning.compare.study.study import FRACTIONS, Study
from mn_lightning.utils.files import write_atomically
from mn_lightning.utils.tables import print_table

NOTHING = "–"
NO_SPREAD = "no spread"
_PACKAGES = ("mn-lightning", "torch", "lightning", "torchvision", "torchmetrics")


class Table(NamedTuple):
    """A table of text, and what has to be said about it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str


def write_report(
    study: Study, runs: Sequence[Run], folder: Path, limits: Limits, command: str
) -> tuple[list[Table], list[str]]:
    """Write the report into ``folder``; what has not finished is named and left out.

    Returns:
        Its tables, and the sentences that they come to.
    """
    finished = [run for run in runs if run.finished]
    curves = {variant: _curves(variant, finished) for variant in study.variants}
    tables = [_scores(study, curves), _races(study, curves), difference_table(study, curves)]
    lines = _sentences(study, curves)
    _write_csv(folder / "results.csv", finished)
    floor = _floor(study, finished)
    plot_curves(study, curves, floor).savefig(folder / "curves.png", dpi=150)
    text = [f"# {study.name}", "", _introduction(study), "", "![](curves.png)", ""]
    if floor is not None:
        lines.append(
            f"The {study.metric} of two random halves of the real images, the dotted line, is {_number(floor)}."
        )
    samples = plot_samples(study, finished)
    if samples is not None:
        samples.savefig(folder / "samples.png", dpi=150)
        text += ["Samples at each run's best evaluation, of the same latents:", "", "![](samples.png)", ""]
    for table in tables:
        text += [f"## {table.title}", "", *_markdown(table.header, table.rows), "", table.note, ""]
    text += ["## Sentences", "", *(f"- {line}" for line in lines), ""]
    text += ["## Runs", "", *_markdown(["variant", "seed", "status", "seconds"], _statuses(runs)), ""]
    text += ["## Made by", "", *(f"- {line}" for line in _provenance(study, runs, limits, command)), ""]
    write_atomically(folder / "report.md", "\n".join(text))
    return tables, lines


def print_report(tables: Iterable[Table], lines: Iterable[str]) -> None:
    """Print what :func:`write_report` returned."""
    for table in tables:
        print_table(table.title, table.header, table.rows)
    for line in lines:
        print(line)


def _curves(variant: str, runs: Iterable[Run]) -> Curves:
    return Curves(
        variant,
        {run.seed: curve(run.rows(), run.study.metric) for run in runs if run.variant == variant},
    )


def _floor(study: Study, runs: Iterable[Run]) -> float | None:
    """Return what FIDCallback logs beside a distance if it is asked for: the distance of real images to real ones."""
    name = f"{study.metric}/floor"
    return next((row[name] for run in runs for row in run.rows() if name in row), None)


# --- tables -------------------------------------------------------------------------------------------------------


def _scores(study: Study, curves: dict[str, Curves]) -> Table:
    header = ["variant", *(f"after {fraction:.0%}" for fraction in FRACTIONS), "seeds"]
    published = [f"{fraction:.0%}" for fraction in FRACTIONS]
    if study.published:
        header += [f"published {key}" for key in published]
    rows = []
    for variant, found in curves.items():
        summaries = [
            summarize([best_after(points, fraction, study.mode) for points in found.by_seed.values()])
            for fraction in FRACTIONS
        ]
        row = [variant, *map(plus_minus, summaries), str(summaries[-1].n)]
        if study.published:
            numbers = study.published.get(variant, {})
            row += [_number(numbers.get(key)) for key in published]
        rows.append(row)
    note = (
        f"Best {study.metric} so far ({_better(study)}) after these shares of the training steps: mean ± standard "
        "deviation over seeds."
    )
    return Table(f"Best {study.metric}", header, rows, note)


def _races(study: Study, curves: dict[str, Curves]) -> Table:
    header = ["variant", "steps", "steps saved", "seconds", "seconds saved", "reached"]
    if study.published:
        header.append("published steps")
    rows = []
    for variant, found in curves.items():
        baseline = curves[study.baseline_of(variant)]
        steps = race(found, baseline, study.mode, "step")
        seconds = race(found, baseline, study.mode, "seconds")
        row = [variant, plus_minus(steps.cost, "{:.0f}"), _saving(steps)]
        row += [plus_minus(seconds.cost, "{:.1f}"), _saving(seconds), f"{steps.reached} of {steps.seeds}"]
        if study.published:
            row.append(_number(study.published.get(variant, {}).get("steps"), "{:.0f}"))
        rows.append(row)
    note = (
        f"Optimizer steps, and seconds of training without validation, until the first evaluation at which the variant "
        f"is as good as the best of {_whose_baseline(study)}'s run with the same seed: mean ± standard deviation over "
        f"the seeds that reached it, and the mean share that was saved. Seconds are those of the machine named below."
    )
    return _with_baselines(study, Table(f"To the best of {_whose_baseline(study)}", header, rows, note))


def difference_table(study: Study, curves: dict[str, Curves]) -> Table:
    """Difference of each variant's best score to its baseline's, and whether the two can be told apart."""
    rows = []
    for variant, found in curves.items():
        baseline = study.baseline_of(variant)
        if variant != baseline:
            difference = paired_difference(found, curves[baseline], study.mode)
            interval = NO_SPREAD if difference.seeds > 1 else NOTHING
            if difference.low is not None and difference.high is not None:
                interval = f"{difference.low:+.4g} to {difference.high:+.4g}"
            mean = NOTHING if difference.mean is None else f"{difference.mean:+.4g}"
            rows.append([variant, mean, interval, str(difference.seeds), _verdict(study, baseline, difference)])
    note = (
        f"Best {study.metric} minus that of {_whose_baseline(study)} with the same seed: mean, and Student's "
        f"{CONFIDENCE:.0%} interval for paired samples. "
        "The intervals are not corrected for looking at several variants."
    )
    if any(NO_SPREAD in row for row in rows):
        note += " Where the difference is the same with all seeds, as coarse metrics make it, there is no interval."
    header = ["variant", "difference", f"{CONFIDENCE:.0%} interval", "seeds", "verdict"]
    return _with_baselines(study, Table(f"Difference to {_whose_baseline(study)}", header, rows, note))


def _whose_baseline(study: Study) -> str:
    return study.baseline if isinstance(study.baseline, str) else "its baseline"


def _with_baselines(study: Study, table: Table) -> Table:
    """Put each variant's baseline beside it, where there is more than one."""
    if isinstance(study.baseline, str):
        return table
    header = [table.header[0], "baseline", *table.header[1:]]
    rows = [[variant, study.baseline_of(variant), *rest] for variant, *rest in table.rows]
    return table._replace(header=header, rows=rows)


def _verdict(study: Study, baseline: str, difference: Difference) -> str:
    if difference.mean is None:
        return "not known yet"
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return f"not distinguishable from {baseline} at {_seeds(difference.seeds)}"
    better = (difference.mean > 0) == (study.mode == "max")
    return f"{'better' if better else 'worse'} than {baseline}"


def _sentences(study: Study, curves: dict[str, Curves]) -> list[str]:
    """One plain sentence for each variant but the baseline: score, and what it saves."""
    lines = []
    for variant, found in curves.items():
        name = study.baseline_of(variant)
        if variant == name:
            continue
        baseline = curves[name]
        verdict = _verdict(study, name, paired_difference(found, baseline, study.mode))
        line = f"{variant}: its best {study.metric} is {verdict}"
        steps, seconds = (race(found, baseline, study.mode, by) for by in ("step", "seconds"))
        if steps.saving is not None and seconds.saving is not None:
            line += (
                f"; it reached {name}'s best in {steps.reached} of {_seeds(steps.seeds)}, there with "
                f"{_less_or_more(steps.saving)} steps and {_less_or_more(seconds.saving)} seconds of training"
            )
        elif steps.seeds:
            line += f"; it reached {name}'s best in none of {_seeds(steps.seeds)}"
        lines.append(f"{line}.")
    return lines


def _less_or_more(saving: float) -> str:
    return f"{abs(saving):.0%} {'fewer' if saving >= 0 else 'more'}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def _better(study: Study) -> str:
    return "more is better" if study.mode == "max" else "less is better"


def _number(value: float | None, form: str = "{:.4g}") -> str:
    return NOTHING if value is None else form.format(value)


def plus_minus(summary: Summary, form: str = "{:.4f}") -> str:
    """Write the mean, and the standard deviation if there is one."""
    text = _number(summary.mean, form)
    return text if summary.std is None else f"{text} ± {form.format(summary.std)}"


def _saving(race_: Race) -> str:
    return NOTHING if race_.saving is None else f"{race_.saving:.0%}"


# --- files --------------------------------------------------------------------------------------------------------


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


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
        f"{len(study.variants)} variants, {_seeds(len(study.seeds))}; the metric is {study.metric}, {_better(study)}; "
        f"the {baselines}.{_published_by(study)}"
    )


def _published_by(study: Study) -> str:
    if not study.published or study.paper is None:
        return ""
    number = study.table or ""
    table = f", Table {number}" if number[:1].isdigit() else number and f", {number}"
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


def _provenance(study: Study, runs: Sequence[Run], limits: Limits, command: str) -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{torch.get_num_threads()} CPU threads ({platform.machine()}, {capability}, {platform.system()})"
    if torch.cuda.is_available():
        machine = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, {machine}"
    lines = [
        f"command: `{command}`",
        f"date: {datetime.now(timezone.utc):%Y-%m-%d}",
        f"machine: {machine}",
        f"versions: Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    ]
    if limits.epochs is not None:
        lines.append(f"limited to {limits.epochs} epochs")
    if limits.samples is not None:
        lines.append(f"limited to {limits.samples} training samples an epoch")
    return lines
