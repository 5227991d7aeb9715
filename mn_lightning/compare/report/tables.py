"""Write the tables and sentences of a report."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mn_lightning.compare.report.results import CONFIDENCE, WINDOW, Comparison, Race, Summary, spacing
from mn_lightning.compare.report.verdicts import FEWEST_SEEDS, POWER, SIGNIFICANCE, corrected, counted_seeds, verdict
from mn_lightning.compare.study.study import FRACTIONS, Study

NOTHING = "–"
NO_SPREAD = "no spread"
_STEPS = "{:.0f}"
_SECONDS = "{:.1f}"


class Table(NamedTuple):
    """A table of text, with a note that explains it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str

    def to_markdown(self) -> list[str]:
        """Return the lines of a section."""
        return [f"## {self.title}", "", *markdown(self.header, self.rows), "", self.note, ""]


def score_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Make the table of best scores after shares of the training, beside the published ones."""
    shares = [f"{fraction:.0%}" for fraction in FRACTIONS]
    header = ["variant", *(f"after {share}" for share in shares), "seeds"]
    steady = any(found.unsteadiness.n for found in comparisons)
    if steady:
        header.append(f"within {WINDOW} epochs")
    if study.published:
        header += [f"published {share}" for share in shares]
    rows = []
    for found in comparisons:
        row = [found.variant, *map(plus_minus, found.scores), str(found.scores[-1].n)]
        if steady:
            row.append(number(found.unsteadiness.mean))
        if study.published:
            numbers = study.published.get(found.variant, {})
            row += [number(numbers.get(share)) for share in shares]
            if "std" in numbers:
                row[-1] += f" ± {number(numbers['std'])}"
        rows.append(row)
    note = (
        f"Best {study.metric} so far ({better(study)}) after these shares of the training steps: mean ± standard "
        "deviation over seeds."
    )
    if steady:
        note += (
            f" Within {WINDOW} epochs: standard deviation of {study.metric} from one evaluation to another within so "
            "many epochs, mean over all such windows and seeds; less is steadier."
        )
    if study.references:
        listed = ", ".join(f"{name} {number(value)}" for name, value in study.references.items())
        note += f" Printed beside them: {listed}."
    return Table(f"Best {study.metric}", header, rows, note)


def race_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Make the table of steps and seconds to the baseline's best, beside the baseline's own and the published steps."""
    baseline = study.baseline if isinstance(study.baseline, str) else "the baseline"
    header = ["variant", "steps", f"{baseline}'s", "steps saved"]
    header += ["seconds", f"{baseline}'s", "seconds saved", "reached"]
    if study.published:
        header.append("published steps")
    rows = []
    for found in comparisons:
        row = [found.variant]
        for race, form in ((found.steps, _STEPS), (found.seconds, _SECONDS)):
            own = [NOTHING, NOTHING] if found.is_baseline else [number(race.of_baseline, form), _saved(race, form)]
            row += [plus_minus(race.cost, form), *own]
        row.append(f"{found.steps.reached} of {found.steps.seeds}")
        if study.published:
            row.append(number(study.published.get(found.variant, {}).get("steps"), _STEPS))
        rows.append(row)
    note = (
        f"Optimizer steps, and seconds of training without validation, until the first evaluation at which the variant "
        f"is as good as the best of {_whose_baseline(study)}'s run with the same seed: mean ± standard deviation over "
        f"the seeds that reached it. Beside them the mean that {_whose_baseline(study)} itself took with these seeds, "
        f"and the share of it that was saved. {' '.join(_resolution(study, comparisons))} Seconds are those of the "
        "machine named below."
    )
    return _with_baselines(study, Table(f"To the best of {_whose_baseline(study)}", header, rows, note))


def difference_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Make the table of differences to the baseline's best score, and whether the two can be told apart."""
    p_values = corrected(comparisons)
    several = len(p_values) > 1
    rows = []
    for found in comparisons:
        if not found.is_baseline:
            difference = found.difference
            interval = NO_SPREAD if difference.seeds > 1 else NOTHING
            if difference.low is not None and difference.high is not None:
                interval = f"{difference.low:+.4g} to {difference.high:+.4g}"
            row = [found.variant, number(difference.mean, "{:+.4g}"), interval]
            row += [number(p_values.get(found.variant), "{:.2g}"), str(difference.seeds)]
            rows.append([*row, verdict(study, found, p_values)])
    note = (
        f"Best {study.metric} minus that of {_whose_baseline(study)} with the same seed: mean, and Student's "
        f"{CONFIDENCE:.0%} interval for paired samples"
    )
    note += ", each for itself. " if several else ". "
    if several:
        note += (
            f"p is corrected for the {len(p_values)} variants by Holm's method, and the verdict goes by it: below "
            f"{SIGNIFICANCE}, a finding stands among all of them. "
        )
    note += (
        "Two seeds settle nothing, whatever their interval. The number of seeds to take is that with which a paired t "
        f"test finds such a difference, spread as here, in {POWER:.0%} of studies at {SIGNIFICANCE}"
        f"{f' / {len(p_values)}' * several}, and never below {FEWEST_SEEDS}: it is as rough as the spread of few seeds."
    )
    if any(NO_SPREAD in row for row in rows):
        note += " If all seeds have the same difference, which happens with coarse metrics, there is no interval."
    header = ["variant", "difference", f"{CONFIDENCE:.0%} interval", f"p{' (Holm)' * several}", "seeds", "verdict"]
    return _with_baselines(study, Table(f"Difference to {_whose_baseline(study)}", header, rows, note))


def sentences(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Return a plain sentence for each variant except the baselines: its score, and what it saves."""
    lines, p_values = [], corrected(comparisons)
    for found in comparisons:
        if found.is_baseline:
            continue
        name, steps = found.baseline, found.steps
        line = f"{found.variant}, best {study.metric}: {verdict(study, found, p_values)}"
        if steps.reached:
            line += (
                f"; it reached {name}'s best in {steps.reached} of {counted_seeds(steps.seeds)}, with "
                f"{_less_or_more(steps, _STEPS)} steps and {_less_or_more(found.seconds, _SECONDS)} seconds"
            )
        elif steps.seeds:
            line += f"; it reached {name}'s best in none of {counted_seeds(steps.seeds)}"
        lines.append(f"{line}.")
    return lines + (_resolution(study, comparisons) if any(found.steps.reached for found in comparisons) else [])


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def plus_minus(summary: Summary, form: str = "{:.4f}") -> str:
    """Write the mean, with the standard deviation if there is one."""
    text = number(summary.mean, form)
    return text if summary.std is None else f"{text} ± {form.format(summary.std)}"


def number(value: float | None, form: str = "{:.4g}") -> str:
    """Write a number, or a dash for None."""
    return NOTHING if value is None else form.format(value)


def better(study: Study) -> str:
    """Say whether more or less is better."""
    return "more is better" if study.mode == "max" else "less is better"


def _whose_baseline(study: Study) -> str:
    return study.baseline if isinstance(study.baseline, str) else "its baseline"


def _with_baselines(study: Study, table: Table) -> Table:
    """Add a column with each variant's baseline, if there are several baselines."""
    if isinstance(study.baseline, str):
        return table
    header = [table.header[0], "baseline", *table.header[1:]]
    rows = [[variant, study.baseline_of(variant), *rest] for variant, *rest in table.rows]
    return table._replace(header=header, rows=rows)


def _resolution(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Say how exactly the curves tell when a score was reached."""
    gaps = [gap for found in comparisons for points in found.curves.by_seed.values() if (gap := spacing(points))]
    if not gaps:
        return []
    steps, epochs = (sorted({gap[i] for gap in gaps}) for i in (0, 1))
    every = f"every {steps[0]:.0f}{f' to {steps[-1]:.0f}' * (len(steps) > 1)} steps"
    if epochs[0] < 1:
        return [f"{study.metric} was measured {every}: steps saved are multiples of that."]
    how_often = "once an epoch" if epochs[-1] == 1 else f"every {epochs[-1]:.0f} epochs"
    return [f"{study.metric} was measured {how_often}, {every}: steps saved are whole epochs."]


def _saved(race: Race, form: str) -> str:
    """Write the share that was saved, computed from the printed numbers."""
    saving = _saving(race, form)
    return NOTHING if saving is None else f"{saving:.0%}"


def _less_or_more(race: Race, form: str) -> str:
    saving = _saving(race, form)
    if saving is None:
        return "about as many"
    return f"{abs(saving):.0%} {'fewer' if saving >= 0 else 'more'}"


def _saving(race: Race, form: str) -> float | None:
    if race.cost.mean is None or race.of_baseline is None or not float(form.format(race.of_baseline)):
        return None
    return 1 - float(form.format(race.cost.mean)) / float(form.format(race.of_baseline))
