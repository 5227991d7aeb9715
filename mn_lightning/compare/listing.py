"""The command ``mn-lightning studies``."""

from collections.abc import Callable, Sequence

from mn_lightning.compare.hours import GPU_MACS, GPU_STEP, Work, shipped_work, speed_here
from mn_lightning.compare.parser import OneLineParser, errors_in_one_line
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import Study
from mn_lightning.configs import study_names
from mn_lightning.utils.tables import print_table

_NOTHING = "–"
_HEADER = ("study", "paper", "table", "data", "runs", "MACs in all", "hours here", "hours on a GPU")


def list_studies(args: Sequence[str]) -> None:
    """List the shipped studies: what they repeat, and how much work they are.

    Args:
        args: the arguments after ``mn-lightning studies`` on the command line.

    Raises:
        SystemExit: there are arguments.
    """
    with errors_in_one_line("studies"):
        OneLineParser(
            prog="mn-lightning studies",
            description="List the shipped studies, which mn-lightning compare takes by their names. Reads no data.",
        ).parse_args(args)
    here = speed_here()
    works = shipped_work()
    print_table("Studies", _HEADER, (_row(load_study(name), works[name], here) for name in study_names()), compact=True)
    print(
        "Hours, rough: all runs one after another, 3 × the forward MACs of convolutions and matrix products, at "
        f"{_macs(here)} a second here (half of what a matrix product has just reached) and {_macs(GPU_MACS)} on an "
        f"H100, with {GPU_STEP * 1000:.0f} ms a step beside; norms, data and evaluations come on top."
    )


def _row(study: Study, works: dict[str, Work], here: float) -> tuple[str, ...]:
    each = [works[variant] for variant in study.variants]
    seeds = len(study.seeds)
    return (
        study.name,
        study.paper or _NOTHING,
        study.table or _NOTHING,
        ", ".join(dict.fromkeys(work.data for work in each)),
        str(len(study.runs)),
        _sum([work.total for work in each], seeds, _macs),
        _sum([work.hours(here) for work in each], seeds, _hours),
        _sum([work.hours(GPU_MACS, GPU_STEP) for work in each], seeds, _hours),
    )


def _sum(numbers: Sequence[float | None], seeds: int, form: Callable[[float], str]) -> str:
    known = [number for number in numbers if number is not None]
    return form(sum(known) * seeds) if len(known) == len(numbers) else _NOTHING


def _macs(macs: float) -> str:
    return f"{macs:.1e}".replace("e+", "e")


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 9.5 else f"{hours:.1g}"
