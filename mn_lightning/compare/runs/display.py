"""Show the runs in the terminal while they are trained, one line for each."""

from collections.abc import Sequence
from statistics import fmean
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from mn_lightning.compare.runs.run import Run


class Display:
    """The lines of the runs, read from the runs' folders.

    In a terminal, a run that is being trained has a bar, its current score and the time left; below the runs is a line
    for all of them. When a run ends, its line stays, in the terminal and in a log file.

    Args:
        runs: all runs of the command; those that had finished before are counted but not shown.
        jobs: runs at the same time.
    """

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self.runs = runs
        self.jobs = jobs
        self._waiting = [run for run in runs if not run.finished]
        # The end of an earlier process is not news, until the run has started again.
        self._before = {run.label: run.outcome() for run in self._waiting}
        self._aside = {run.label: run.files_set_aside() for run in self._waiting}
        self._shown: dict[str, TaskID] = {}
        self._lines = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[score]}"),
            TextColumn("{task.fields[left]}"),
            console=Console(),
            disable=not Console().is_terminal,
        )
        self._all = self._lines.add_task("all runs", total=len(runs), score="", left="")

    def __enter__(self) -> "Display":
        self._lines.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.stop()

    def update(self) -> None:
        """Show the changes."""
        for run in list(self._waiting):
            outcome = run.outcome()
            if outcome is not None and outcome != self._before[run.label]:
                self._end(run, f"{outcome.status} in {_minutes(outcome.seconds)}", outcome.error)
                continue
            progress = run.progress()
            if progress is None:
                continue
            if run.label not in self._shown:
                self._start(run)
            score = "" if progress.score is None else f"{run.study.metric} {progress.score:.4g}"
            left = "" if progress.left is None else f"{_minutes(progress.left)} left"
            self._lines.update(self._shown[run.label], completed=progress.done, score=score, left=left)
        self._lines.update(
            self._all, completed=len(self.runs) - len(self._waiting), left=time_left(self.runs, self.jobs)
        )

    def _start(self, run: Run) -> None:
        self._shown[run.label] = self._lines.add_task(escape(run.label), total=1.0, score="", left="")

    def _end(self, run: Run, how: str, error: str) -> None:
        self._waiting.remove(run)
        if run.label in self._shown:
            self._lines.remove_task(self._shown[run.label])
        progress = run.progress()
        value = None if progress is None else progress.score
        score = "" if value is None else f", {run.study.metric} {value:.4g}"
        left = f" · {time_left(self.runs, self.jobs)}" if self._waiting else ""
        self._print(f"{self._place(run)} · {how}{score}{left}")
        for path in sorted(run.files_set_aside() - self._aside[run.label]):
            self._print(f"   {path} was damaged and is set aside; its log is in {run.log_path}")
        if error:
            self._print(f"   {error}; its output is in {run.log_path}")

    def _place(self, run: Run) -> str:
        return f"── run {self.runs.index(run) + 1} of {len(self.runs)}: {run.label}"

    def _print(self, line: str) -> None:
        if self._lines.disable:
            print(line, flush=True)
        else:
            self._lines.console.print(line, markup=False, highlight=False)


def time_left(runs: Sequence[Run], jobs: int) -> str:
    """Estimate the time left from the runs that have finished, of the same variant if there is one.

    Args:
        runs: all runs of the command.
        jobs: runs at the same time.
    """
    finished: dict[str, list[float]] = {}
    running, waiting = [], []
    for run in runs:
        outcome = run.outcome()
        if outcome is None:
            progress = run.progress()
            if progress is None or progress.left is None:
                waiting.append(run)
            else:
                running.append(progress.left)
        elif outcome.status == "finished":
            finished.setdefault(run.variant, []).append(outcome.seconds)
    if waiting and not finished:
        return "time left is not known before the first has finished"
    every = [value for values in finished.values() for value in values]
    total = sum(running) + sum(fmean(finished.get(run.variant, every)) for run in waiting)
    return f"about {_minutes(max([total / jobs, *running]))} left"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"
