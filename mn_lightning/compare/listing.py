"""The command ``mn-lightning studies``."""

from collections.abc import Iterable, Sequence

from mn_lightning.compare.parser import OneLineParser, errors_in_one_line
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.work import Work, work_of
from mn_lightning.configs import study_names
from mn_lightning.utils.tables import print_table

_NOTHING = "–"
_HEADER = ("study", "paper", "table", "data", "runs", "MACs a run", "MACs in all")
_NOTE = (
    "MACs: multiply-accumulates of the convolutions and matrix products in the forward passes of a training, epochs × "
    "images × MACs of an image. Backward passes are about twice as many more; norms and evaluation are not counted."
)


def list_studies(args: Sequence[str]) -> None:
    """List the shipped studies, what they repeat and how much work they are.

    Args:
        args: what follows ``mn-lightning studies`` on the command line.

    Raises:
        SystemExit: there are arguments.
    """
    with errors_in_one_line("studies"):
        OneLineParser(
            prog="mn-lightning studies",
            description="List the shipped studies, which mn-lightning compare takes by their names. Reads no data.",
        ).parse_args(args)
        print_table("Studies", _HEADER, map(_row, study_names()))
        print(_NOTE)


def _row(name: str) -> tuple[str, ...]:
    study = load_study(name)
    works = work_of(study)
    each = [work.total for work in works.values()]
    total = None if None in each else sum(macs for macs in each if macs is not None) * len(study.seeds)
    return (
        name,
        study.paper or _NOTHING,
        study.table or _NOTHING,
        ", ".join(_distinct(works.values())),
        str(len(study.runs)),
        _range(each),
        _number(total),
    )


def _distinct(works: Iterable[Work]) -> list[str]:
    return list(dict.fromkeys(work.data for work in works))


def _range(numbers: Sequence[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return _NOTHING
    low, high = _number(min(known)), _number(max(known))
    return low if low == high else f"{low} to {high}"


def _number(macs: int | None) -> str:
    return _NOTHING if macs is None else f"{macs:.1e}".replace("e+", "e")
