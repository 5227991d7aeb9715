"""The command ``mn-lightning compare``."""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from mn_lightning.compare.check import check_study, named, parse_errors_in_one_line
from mn_lightning.compare.report.report import print_report, write_report
from mn_lightning.compare.runs.train import BusyError, Limits, Outcome, Preparation, Run
from mn_lightning.compare.study.study import Study, StudyError, load_study
from mn_lightning.configs import study_names
from mn_lightning.utils.files import write_atomically

INCOMPLETE = 1
WRONG = 2
INTERRUPTED = 130
"""Exit statuses: a run failed or is not finished, nothing was run because of what was given, Ctrl-C."""


def compare(args: Sequence[str]) -> None:
    """Run a study, or a part of it, and report.

    Args:
        args: what follows ``mn-lightning compare`` on the command line.

    Raises:
        SystemExit: with a status other than 0 if anything could not be run or failed.
    """
    options = _parse(args)
    limits = Limits(options.limit_epochs, options.limit_samples)
    try:
        study = load_study(options.study)
        root = Path(options.folder or Path("studies") / study.name)
        _check_selection(study, options)
        runs = [Run(study, variant, seed, root) for variant, seed in study.runs]
        chosen = [run for run in runs if options.only in (None, run.variant) and options.seed in (None, run.seed)]
        if options.dry_run:
            _print_configurations(chosen, limits)
            sys.exit(0)
        if options.report:
            _check_unchanged(study, limits, root)
            _report(study, runs, root, limits)
            sys.exit(0)
        if options.prepare is not None:
            _open_folder(study, limits, root, fresh=options.fresh)
            sys.exit(_train(Preparation.of(study, options.prepare, root), Limits(), wait=True))
        if len(chosen) == 1 and options.only is not None and options.seed is not None:
            _open_folder(study, limits, root, fresh=options.fresh)
            _prepare(study, root, options)
            sys.exit(_train(chosen[0], limits))
        if options.fresh or _read_snapshot(root) != _snapshot(study, limits):
            check_study(study)
        _open_folder(study, limits, root, fresh=options.fresh)
    except StudyError as error:
        sys.stderr.write(f"mn-lightning compare: {error}\n")
        sys.exit(WRONG)
    _prepare(study, root, options)
    _train_all(chosen, root, options)
    _report(study, runs, root, limits)
    sys.exit(0 if all(run.finished for run in chosen) else INCOMPLETE)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mn-lightning compare",
        description="Train with several norms and seeds, and report what they do to steps and score. The same command "
        "goes on with a study that was interrupted.",
    )
    parser.add_argument(
        "study", nargs="?", default="digits", help=f"a study's file, or one of {', '.join(study_names())}"
    )
    parser.add_argument("--folder", help="where the results go, studies/NAME otherwise")
    parser.add_argument("--only", metavar="VARIANT", help="run this variant alone")
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--prepare", metavar="NAME", help="train this model, which all runs need, and run nothing")
    parser.add_argument("--report", action="store_true", help="run nothing, report what has finished")
    parser.add_argument("--dry-run", action="store_true", help="run nothing, print each run's whole configuration")
    parser.add_argument("--fresh", action="store_true", help="put earlier results aside and start anew")
    parser.add_argument("--limit_epochs", type=_positive, metavar="N", help="train N epochs at most")
    parser.add_argument("--limit_samples", type=_positive, metavar="N", help="use N training samples an epoch at most")
    return parser.parse_args(args)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is given; it takes 1 or more")
    return number


def _check_selection(study: Study, options: argparse.Namespace) -> None:
    if options.only is not None and options.only not in study.variants:
        raise StudyError(f"--only {options.only!r} is no variant; the variants are {', '.join(study.variants)}")
    if options.prepare is not None and options.prepare not in study.prepare:
        prepared = ", ".join(study.prepare) or "nothing"
        raise StudyError(f"--prepare {options.prepare!r} is not in the study, which prepares {prepared}")
    if options.seed is not None and options.seed not in study.seeds:
        raise StudyError(f"--seed {options.seed} is not in the study; its seeds are {', '.join(map(str, study.seeds))}")


# --- the study's folder -------------------------------------------------------------------------------------------


def _snapshot_path(root: Path) -> Path:
    return root / "study.json"


def _read_snapshot(root: Path) -> dict[str, Any] | None:
    path = _snapshot_path(root)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _snapshot(study: Study, limits: Limits) -> dict[str, Any]:
    return {**study.to_dict(), "limits": limits._asdict()}


def _open_folder(study: Study, limits: Limits, root: Path, fresh: bool) -> None:
    """Make the folder, or go on with it if it is this study's; with ``fresh`` rename the one there is."""
    if fresh and root.exists():
        aside = root.with_name(f"{root.name}-{datetime.now():%Y%m%d-%H%M%S}")
        root.rename(aside)
        print(f"earlier results are in {aside} now")
    _check_unchanged(study, limits, root)
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(_snapshot_path(root), json.dumps(_snapshot(study, limits), indent=1))


def _check_unchanged(study: Study, limits: Limits, root: Path) -> None:
    """Refuse to mix runs of different settings; more variants and seeds, and what the report alone uses, may come."""
    before = _read_snapshot(root)
    if before is None:
        return
    now = _snapshot(study, limits)
    settings: list[str] = ["base", "limits", "prepare"]
    changes = [key for key in settings if key in before and _decisive(before[key]) != _decisive(now[key])]
    changes += [
        f"variant {name!r}"
        for name, overrides in before["variants"].items()
        if name in now["variants"] and _decisive(now["variants"][name]) != _decisive(overrides)
    ]
    if changes:
        raise StudyError(
            f"{root} holds runs of this study with another {', '.join(changes)}; take another --folder, or --fresh to "
            "put them aside and start anew"
        )


def _decisive(settings: Any) -> Any:
    """Leave out where the batches are made, which are the same everywhere."""
    if isinstance(settings, dict):
        return {key: _decisive(value) for key, value in settings.items() if key.rpartition(".")[2] != "on_device"}
    return [_decisive(value) for value in settings] if isinstance(settings, list) else settings


def _print_configurations(runs: Sequence[Run], limits: Limits) -> None:
    """Print a YAML document for each run."""
    for run in runs:
        with parse_errors_in_one_line(named(run.study, run.variant)):
            configuration = run.configuration(limits)
        print(f"--- # {run.variant}, seed {run.seed}")
        if limits.samples is not None:
            print(f"# limited to {limits.samples} training samples an epoch")
        print(configuration, flush=True)


# --- running ------------------------------------------------------------------------------------------------------


def _prepare(study: Study, root: Path, options: argparse.Namespace) -> None:
    """Train what all runs need, or wait for the process that does; without limits, which are for the runs."""
    for name in study.prepare:
        if not Preparation.of(study, name, root).finished:
            print(f"── preparation: {name}", flush=True)
            status = _in_own_process([*_command(root, options), "--prepare", name])
            if status:
                sys.stderr.write(f"mn-lightning compare: without the preparation {name} there are no runs\n")
                sys.exit(status)


def _train(run: Run, limits: Limits, wait: bool = False) -> int:
    try:
        outcome = run.train(limits, wait)
    except BusyError as error:
        sys.stderr.write(f"mn-lightning compare: {error}\n")
        return INCOMPLETE
    except SystemExit:  # Lightning's, after Ctrl-C and SIGTERM
        return INTERRUPTED
    if outcome.status == "failed":
        sys.stderr.write(f"mn-lightning compare: {run.variant}, seed {run.seed} failed: {outcome.error}\n")
        return INCOMPLETE
    return 0


def _train_all(runs: Sequence[Run], root: Path, options: argparse.Namespace) -> None:
    """Train one after the other, each in a process of its own, which starts with a clean memory and random state."""
    for position, run in enumerate(runs, 1):
        if run.finished:
            continue
        left = _time_left(runs[position - 1 :], runs)
        print(f"── run {position} of {len(runs)}: {run.variant}, seed {run.seed} · {left}", flush=True)
        started = time.monotonic()
        status = _in_own_process([*_command(root, options), "--only", run.variant, "--seed", str(run.seed)])
        if status == INTERRUPTED:
            print("interrupted; the same command goes on from the last whole epoch")
            sys.exit(INTERRUPTED)
        if status not in (0, INCOMPLETE):
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            run.set_outcome(Outcome("failed", f"the process ended with {how}", time.monotonic() - started))


def _command(root: Path, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "mn_lightning", "compare", options.study, "--folder", str(root)]
    for name in ("limit_epochs", "limit_samples"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name}", str(value)]
    return command


def _in_own_process(command: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _terminate)
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the run's process too, which saves nothing more and ends.
        process.wait()
        return INTERRUPTED
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _terminate(signum: int, frame: object) -> NoReturn:
    sys.exit(128 + signum)


def _time_left(waiting: Sequence[Run], runs: Sequence[Run]) -> str:
    """Estimate from the runs that have finished, of the same variant where there is one."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        outcome = run.outcome()
        if outcome is not None and outcome.status == "finished":
            seconds.setdefault(run.variant, []).append(outcome.seconds)
    if not seconds:
        return "time left is not known before the first has finished"
    every = [value for values in seconds.values() for value in values]
    total = 0.0
    for run in waiting:
        if run.outcome() is None:
            like = seconds.get(run.variant, every)
            total += sum(like) / len(like)
    minutes, rest = divmod(round(total), 60)
    return f"about {minutes}:{rest:02} min left"


# --- reporting ----------------------------------------------------------------------------------------------------


def _report(study: Study, runs: Sequence[Run], root: Path, limits: Limits) -> None:
    outcomes = [run.outcome() for run in runs]
    if not any(run.finished for run in runs):
        sys.stderr.write(f"mn-lightning compare: no run in {root} has finished, there is nothing to report\n")
    else:
        command = "mn-lightning " + shlex.join(sys.argv[1:])
        print_report(*write_report(study, runs, root, limits, command))
        print(f"report.md, curves.png and results.csv are in {root}")
    for run, outcome in zip(runs, outcomes, strict=True):
        if outcome is None:
            print(f"{run.variant}, seed {run.seed} has not finished")
        elif outcome.status == "failed":
            print(f"{run.variant}, seed {run.seed} failed: {outcome.error}")
