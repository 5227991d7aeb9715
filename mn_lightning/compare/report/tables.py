"""What a report says in words: its tables and sentences."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mn_lightning.compare.report.results import CONFIDENCE, WINDOW, Comparison, Difference, Race, Summary
from mn_lightning.compare.study.study import FRACTIONS, Study

NOTHING = "–"
NO_SPREAD = "no spread"


class Table(NamedTuple):
    """A table of text, and what has to be said about it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str

    def to_markdown(self) -> list[str]:
        """Return the lines of a section."""
        return [f"## {self.title}", "", *markdown(self.header, self.rows), "", self.note, ""]


def score_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Best scores after shares of the training, beside the published ones."""
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
    """Steps and seconds to the baseline's best, beside the published steps."""
    header = ["variant", "steps", "steps saved", "seconds", "seconds saved", "reached"]
    if study.published:
        header.append("published steps")
    rows = []
    for found in comparisons:
        steps, seconds = found.steps, found.seconds
        row = [found.variant, plus_minus(steps.cost, "{:.0f}"), _saving(steps)]
        row += [plus_minus(seconds.cost, "{:.1f}"), _saving(seconds), f"{steps.reached} of {steps.seeds}"]
        if study.published:
            row.append(number(study.published.get(found.variant, {}).get("steps"), "{:.0f}"))
        rows.append(row)
    note = (
        f"Optimizer steps, and seconds of training without validation, until the first evaluation at which the variant "
        f"is as good as the best of {_whose_baseline(study)}'s run with the same seed: mean ± standard deviation over "
        f"the seeds that reached it, and the mean share that was saved. Seconds are those of the machine named below."
    )
    return _with_baselines(study, Table(f"To the best of {_whose_baseline(study)}", header, rows, note))


def difference_table(study: Study, comparisons: Sequence[Comparison]) -> Table:
    """Difference of each variant's best score to its baseline's, and whether the two can be told apart."""
    rows = []
    for found in comparisons:
        if not found.is_baseline:
            difference = found.difference
            interval = NO_SPREAD if difference.seeds > 1 else NOTHING
            if difference.low is not None and difference.high is not None:
                interval = f"{difference.low:+.4g} to {difference.high:+.4g}"
            verdict = _verdict(study, found.baseline, difference)
            mean = number(difference.mean, "{:+.4g}")
            rows.append([found.variant, mean, interval, str(difference.seeds), verdict])
    note = (
        f"Best {study.metric} minus that of {_whose_baseline(study)} with the same seed: mean, and Student's "
        f"{CONFIDENCE:.0%} interval for paired samples. "
        "The intervals are not corrected for looking at several variants."
    )
    if any(NO_SPREAD in row for row in rows):
        note += " Where the difference is the same with all seeds, as coarse metrics make it, there is no interval."
    header = ["variant", "difference", f"{CONFIDENCE:.0%} interval", "seeds", "verdict"]
    return _with_baselines(study, Table(f"Difference to {_whose_baseline(study)}", header, rows, note))


def sentences(study: Study, comparisons: Sequence[Comparison]) -> list[str]:
    """Return a plain sentence for each variant but the baselines: its score, and what it saves."""
    lines = []
    for found in comparisons:
        if found.is_baseline:
            continue
        name, steps, seconds = found.baseline, found.steps, found.seconds
        line = f"{found.variant}: its best {study.metric} is {_verdict(study, name, found.difference)}"
        if steps.saving is not None and seconds.saving is not None:
            line += (
                f"; it reached {name}'s best in {steps.reached} of {counted_seeds(steps.seeds)}, there with "
                f"{_less_or_more(steps.saving)} steps and {_less_or_more(seconds.saving)} seconds of training"
            )
        elif steps.seeds:
            line += f"; it reached {name}'s best in none of {counted_seeds(steps.seeds)}"
        lines.append(f"{line}.")
    return lines


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def plus_minus(summary: Summary, form: str = "{:.4f}") -> str:
    """Write the mean, and the standard deviation if there is one."""
    text = number(summary.mean, form)
    return text if summary.std is None else f"{text} ± {form.format(summary.std)}"


def number(value: float | None, form: str = "{:.4g}") -> str:
    """Write a number, or a dash for None."""
    return NOTHING if value is None else form.format(value)


def counted_seeds(count: int) -> str:
    """Write a number of seeds."""
    return f"{count} seed{'s' * (count != 1)}"


def better(study: Study) -> str:
    """Say which scores are better."""
    return "more is better" if study.mode == "max" else "less is better"


def _whose_baseline(study: Study) -> str:
    return study.baseline if isinstance(study.baseline, str) else "its baseline"


def _with_baselines(study: Study, table: Table) -> Table:
    """Put each variant's baseline beside it, if there are several."""
    if isinstance(study.baseline, str):
        return table
    header = [table.header[0], "baseline", *table.header[1:]]
    rows = [[variant, study.baseline_of(variant), *rest] for variant, *rest in table.rows]
    return table._replace(header=header, rows=rows)


def _verdict(study: Study, baseline: str, difference: Difference) -> str:
    if difference.mean is None:
        return "not known yet"
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return f"not distinguishable from {baseline} at {counted_seeds(difference.seeds)}"
    is_better = (difference.mean > 0) == (study.mode == "max")
    return f"{'better' if is_better else 'worse'} than {baseline}"


def _less_or_more(saving: float) -> str:
    return f"{abs(saving):.0%} {'fewer' if saving >= 0 else 'more'}"


def _saving(race: Race) -> str:
    return number(race.saving, "{:.0%}")
