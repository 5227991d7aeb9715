"""What was compared: each variant's layers as they were in its runs, and their costs beside the baseline's."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from mn_lightning.compare.report.tables import NOTHING, Table
from mn_lightning.compare.runs.facts import Facts, Layer, read_facts
from mn_lightning.compare.runs.run import Run
from mn_lightning.compare.study.study import Study

_FEW = 2
"""Most names of layers in a cell of the table; the report lists all of them below the table."""


def models_table(study: Study, runs: Sequence[Run]) -> Table | None:
    """A line for each variant: swapped layers, parameters, seconds a step, peak memory.

    Args:
        study: says which variants are baselines.
        runs: those that have finished.

    Returns:
        None if no run has recorded its model, as in earlier versions.
    """
    known = [(run, facts) for run in runs if (facts := read_facts(run.folder))]
    if not known:
        return None
    of = {name: [(run, facts) for run, facts in known if run.variant == name] for name in study.variants}
    costs = {name: _costs(found) for name, found in of.items()}
    rows, layers = [], []
    for name, found in of.items():
        baseline = study.baseline_of(name)
        cells = [
            _beside(value, form, None if name == baseline else reference)
            for value, form, reference in zip(costs[name], (_count, _time, _size), costs[baseline], strict=True)
        ]
        groups = _groups(found[0][1].layers) if found else []
        what = "; ".join(map(_words, groups)) or "as the model has them"
        rows.append([name, what if found else NOTHING, *cells])
        layers += [f"- {name}: {_norm(group)} in {', '.join(layer.name for layer in group)}" for group in groups]
    note = (
        "Layers that were swapped, read from the model that was trained; trainable parameters; time of training "
        "without validation for each optimizer step, with the data and the refits of mixtures, mean over seeds; peak "
        "memory, on a GPU that of tensors, elsewhere of the whole process with all libraries. In brackets: over the "
        "baseline's."
    )
    header = ["variant", "layers", "parameters", "a step", "peak memory"]
    return Table("What was compared", header, rows, "\n".join([note, "", *layers]).strip())


def missing_callbacks(runs: Iterable[Run]) -> list[str]:
    """Name the variants that were trained without a callback that their mixtures need."""
    found = [(run.variant, facts) for run in runs if (facts := read_facts(run.folder))]
    return list(dict.fromkeys(f"{variant}: {missing}." for variant, facts in found for missing in facts.missing))


def _costs(found: Sequence[tuple[Run, Facts]]) -> tuple[float | None, float | None, float | None]:
    """Return parameters, seconds per step and peak memory of a variant's runs."""
    last = [rows[-1] for run, _ in found if (rows := run.rows())]
    steps = [row["seconds"] / row["step"] for row in last if row["step"]]
    peaks = [facts.peak_memory for _, facts in found if facts.peak_memory]
    return found[0][1].parameters if found else None, fmean(steps) if steps else None, max(peaks, default=None)


def _beside(value: float | None, form: Callable[[float], str], reference: float | None) -> str:
    if value is None:
        return NOTHING
    return form(value) + (f" ({value / reference:.2f}×)" if reference else "")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _time(value: float) -> str:
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _size(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def _groups(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Group the layers by norm and settings."""
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        groups.setdefault((layer.norm, layer.settings), []).append(layer)
    return list(groups.values())


def _words(group: Sequence[Layer]) -> str:
    names = [layer.name for layer in group]
    where = ", ".join(names) if len(names) <= _FEW else f"{len(names)} layers, {names[0]} to {names[-1]}"
    return f"{where}: {_norm(group)}"


def _norm(group: Sequence[Layer]) -> str:
    return ", ".join(filter(None, [group[0].norm, group[0].settings]))
