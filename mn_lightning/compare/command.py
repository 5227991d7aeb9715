"""The command ``mn-lightning compare``: arguments, study, folder, runs, report."""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from mn_lightning.compare.check import check_study
from mn_lightning.compare.disk import checkpoint_sizes
from mn_lightning.compare.parser import OneLineParser, errors_in_one_line
from mn_lightning.compare.report.report import print_report, write_report
from mn_lightning.compare.runs.engines import ALONE, Backend, Request, connect
from mn_lightning.compare.runs.jobs import INCOMPLETE, become, train_all
from mn_lightning.compare.runs.run import Run, preparations, runs_in
from mn_lightning.compare.runs.train import plan
from mn_lightning.compare.study.folder import Keep, StudyFolder
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import Limits, Study, StudyError
from mn_lightning.configs import study_names
from mn_lightning.utils.text import say, shown

_DIGITS = 18
_MOST_JOBS = 1024


def compare(args: Sequence[str]) -> None:
    """Run a study, or a part of it, and report.

    Args:
        args: the arguments after ``mn-lightning compare`` on the command line.

    Raises:
        SystemExit: with a status other than 0 if something could not be run or failed.
    """
    with errors_in_one_line("compare"):
        options = _parse(args)
        study = load_study(options.study)
        study = replace(study, current_statistics=study.current_statistics or options.current_statistics)
        _check_selection(study, options)
        root = Path("studies") / study.name if options.folder is None else Path(options.folder)
        folder = StudyFolder(root, study, Limits(options.limit_epochs, options.limit_samples), options.keep)
        sys.exit(_run(folder, options))


def _run(folder: StudyFolder, options: argparse.Namespace) -> int:
    """Do what the options ask for, and return the exit status."""
    chosen = [
        run for run in runs_in(folder) if options.only in (None, run.variant) and options.seed in (None, run.seed)
    ]
    prepared: list[Run] = list(preparations(folder.study, folder.root))
    if options.dry_run:
        return _print_configurations(chosen, folder, options.jobs or len(chosen))
    folder.check(options.fresh)
    if options.report:
        return _report(folder)
    if options.prepare is not None:
        prepared, chosen = [], [run for run in prepared if run.variant == options.prepare]
    single = options.prepare is not None or None not in (options.only, options.seed)
    with connect(_request(options)) as engine:
        if not single and (options.fresh or not folder.is_written):
            print(
                f"{len(folder.study.runs)} runs in {folder.root}; each variant is tried with one batch first",
                flush=True,
            )
            check_study(folder.study)
        folder.open(fresh=options.fresh)
        status = train_all(prepared, engine)
        for run in prepared:
            if not run.finished:
                outcome = run.outcome()
                why = "" if outcome is None else f"; it {outcome.status}: {outcome.error}"
                say("compare", f"without the preparation {run.variant} there are no runs{why}")
                return status or INCOMPLETE
        if single and options.backend == "local":
            become(chosen[0])
        status = train_all(chosen, engine)
    if status:
        return status
    if not single:
        _say_what_is_gone(folder, chosen)
        _report(folder)
    return 0 if all(run.finished for run in chosen) else INCOMPLETE


def _say_what_is_gone(folder: StudyFolder, runs: Sequence[Run]) -> None:
    gone = sum(run.finished and not all(path.exists() for path in run.kept(folder.keep)) for run in runs)
    if gone:
        print(f"{gone} runs have finished without keeping all that --keep {folder.keep} asks for; --fresh repeats them")


def _request(options: argparse.Namespace) -> Request:
    return Request(options.jobs, options.gpus_per_job, options.backend, options.address)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="mn-lightning compare",
        description="Train with several norms and seeds, and report what they do to steps and score. The same command "
        "goes on with a study that was interrupted.",
    )
    parser.add_argument(
        "study", nargs="?", default="digits", help=f"a study's file, or one of {', '.join(study_names())}"
    )
    parser.add_argument("--folder", type=_folder, help="where the results go, studies/NAME otherwise")
    parser.add_argument("--only", metavar="VARIANT", help="run this variant alone")
    parser.add_argument("--seed", type=_seed, help="run this seed alone")
    parser.add_argument("--prepare", metavar="NAME", help="train this model, which all runs need, and run nothing")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--report", action="store_true", help="run nothing, report what has finished")
    one.add_argument("--dry-run", action="store_true", help="run nothing, print each run's whole configuration")
    one.add_argument("--fresh", action="store_true", help="put earlier results aside and start anew")
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=ALONE,
        metavar="N",
        help="train N runs at the same time; auto: one for each GPU, or for two CPU cores",
    )
    parser.add_argument("--gpus_per_job", type=_gpus, metavar="N", help="GPUs of each run, or a share of one as 0.25")
    parser.add_argument("--backend", choices=get_args(Backend), default="local", help="this machine, or a cluster's")
    parser.add_argument("--address", help="the cluster's: auto or ray://host:10001, tcp://host:8786 of Dask")
    parser.add_argument(
        "--keep", choices=get_args(Keep), default="none", help="keep these checkpoints of each run that has finished"
    )
    parser.add_argument(
        "--current_statistics",
        action="store_true",
        help="validate twice: as trained, and with statistics of the current weights; the report has both",
    )
    parser.add_argument("--limit_epochs", type=_positive, metavar="N", help="train N epochs at most")
    parser.add_argument("--limit_samples", type=_positive, metavar="N", help="use N training samples an epoch at most")
    options = parser.parse_args(args)
    for name, value in vars(options).items():
        if isinstance(value, list):  # argparse makes this of `--only --`
            parser.error(f"--{name} needs a value")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text[:_DIGITS]) > 0 or len(text) > _DIGITS:
        raise argparse.ArgumentTypeError(f"{shown(text)} is given; it takes a whole number, 1 or more")
    return int(text)


def _jobs(text: str) -> int | None:
    if text == "auto":
        return None
    if _positive(text) > _MOST_JOBS:
        raise argparse.ArgumentTypeError(f"{text} is given; it takes 1 to {_MOST_JOBS}, or auto")
    return int(text)


def _gpus(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{shown(text)} is given; it takes a number above 0, such as 1 or 0.25")
    return number


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > _DIGITS:
        raise argparse.ArgumentTypeError(f"{shown(text)} is given; it takes one of the study's seeds")
    return int(text)


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("'' is given; it takes a folder")
    return text


def _check_selection(study: Study, options: argparse.Namespace) -> None:
    if options.only is not None and options.only not in study.variants:
        raise StudyError(f"--only {shown(options.only)} is not a variant; the variants are {', '.join(study.variants)}")
    if options.prepare is not None and options.prepare not in study.prepare:
        prepared = ", ".join(study.prepare) or "nothing"
        raise StudyError(f"--prepare {shown(options.prepare)} is not in the study, which prepares {prepared}")
    if options.seed is not None and options.seed not in study.seeds:
        raise StudyError(f"--seed {options.seed} is not in the study; its seeds are {', '.join(map(str, study.seeds))}")


def _print_configurations(runs: Sequence[Run], folder: StudyFolder, jobs: int) -> int:
    """Print a YAML document for each run, and how much disk space the checkpoints will take."""
    sizes = []
    for run in runs:
        text, model = plan(run, folder.limits)
        print(f"--- # {run.label}")
        if folder.limits.samples is not None:
            print(f"# limited to {folder.limits.samples} training samples an epoch")
        print(text, flush=True)
        if model is not None:
            sizes.append(checkpoint_sizes(model))
    kept = sum(size.kept(folder.keep) for size in sizes)
    meanwhile = [size.last + size.best * (folder.keep in ("best", "both")) for size in sizes]
    print(
        f"# checkpoints: about {_megabytes(kept)} stay (--keep {folder.keep}), about "
        f"{_megabytes(sum(sorted(meanwhile)[-jobs:]))} are needed while runs are trained"
    )
    if len(sizes) < len(runs):
        print(f"# without {len(runs) - len(sizes)} runs, whose sizes are not known")
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _report(folder: StudyFolder) -> int:
    runs = runs_in(folder)
    there = any(run.finished for run in runs)
    if there:
        print_report(*write_report(folder, "mn-lightning " + shlex.join(sys.argv[1:])))
        print(f"report.md, curves.png and results.csv are in {folder.root}")
    else:
        say("compare", f"no run in {folder.root} has finished, there is nothing to report")
    for run in runs:
        outcome = run.outcome()
        if outcome is None:
            print(f"{run.label} has not finished")
        elif outcome.status == "failed":
            print(f"{run.label} failed: {outcome.error}")
    return 0 if there else INCOMPLETE
