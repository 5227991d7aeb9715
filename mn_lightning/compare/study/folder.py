"""The folder of a study: it records the settings of its runs, which cannot change while there are runs."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from mn_lightning.compare.study.load import study_of
from mn_lightning.compare.study.origin import decisive, read_origin
from mn_lightning.compare.study.study import Limits, Study, StudyError
from mn_lightning.utils.files import free_path, write_atomically
from mn_lightning.utils.text import shown

Keep = Literal["best", "last", "both", "none"]
"""Which checkpoints remain when a run has finished."""

_UNCHANGING = ("base", "limits", "prepare", "current_statistics")
_LOCKS = (".session-*.lock", "runs/*/*/lock", "prepare/*/lock")


@dataclass(frozen=True)
class StudyFolder:
    """A study with its limits, and the folder for its results.

    ``study.json`` in the folder holds the study and the limits. The processes of the runs read it, on any machine.
    """

    root: Path
    study: Study
    limits: Limits
    keep: Keep = "none"

    @classmethod
    def read(cls, root: Path) -> "StudyFolder":
        """Return the folder as :meth:`open` wrote it.

        Raises:
            StudyError: there is no study in it.
        """
        written = _read(root)
        if written is None:
            raise StudyError(f"{root} holds no study.json; mn-lightning compare makes one")
        return written

    @property
    def is_written(self) -> bool:
        """Whether the folder belongs to this study with its current settings."""
        written = _read(self.root)
        return written is not None and {**written._content(), "keep": self.keep} == self._content()

    def open(self, fresh: bool = False) -> None:
        """Make the folder, or continue with an existing one.

        Args:
            fresh: rename an existing folder, and make a new one.

        Raises:
            StudyError: as :meth:`check`.
        """
        self.check(fresh)
        if fresh and self.root.exists():
            root = self.root.absolute()
            with _nothing_running(root):
                aside = free_path(root.with_name(f"{root.name}-{datetime.now():%Y%m%d-%H%M%S}"))
                root.rename(aside)
            print(f"earlier results are in {aside} now")
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(_path(self.root), json.dumps(self._content(), indent=1))

    def check(self, fresh: bool = False) -> None:
        """Refuse to mix runs of different settings. New variants and seeds are accepted, and changes of the report.

        Args:
            fresh: whether the folder will be put aside.

        Raises:
            StudyError: the folder holds something other than a study, or runs with other settings; or it should be put
                aside while one of its runs is being trained.
        """
        if not self.root.is_dir():
            if self.root.exists() or self.root.is_symlink():
                raise StudyError(f"{self.root} is not a folder; give another --folder")
        elif not _path(self.root).is_file() and any(path.name[0] != "." for path in self.root.iterdir()):
            raise StudyError(
                f"{self.root} is there and has no file study.json, so it is not a study's folder; nothing in it was "
                "changed; give another --folder"
            )
        if fresh:
            with _nothing_running(self.root):
                return
        written = _read(self.root)
        if written is None:
            return
        before, now = written._content(), self._content()
        changes = [key for key in _UNCHANGING if decisive(before[key]) != decisive(now[key])]
        changes += [f"variant {variant!r}" for variant in self.study.variants if self._has_changed(variant, written)]
        if changes:
            raise StudyError(
                f"{self.root} holds runs of this study with another {', '.join(changes)}; take another --folder, or "
                "--fresh to put them aside and start anew"
            )

    def _has_changed(self, variant: str, written: "StudyFolder") -> bool:
        now = decisive(self.study.variants[variant])
        if decisive(written.study.variants.get(variant, now)) != now:
            return True
        # A variant may have been removed from the study and added again; its runs have recorded their settings.
        for folder in (self.root / "runs" / variant).glob("seed-*"):
            try:
                origin = read_origin(folder)
            except ValueError:  # the run will be trained anew
                continue
            if origin is not None and origin.settings.get("variant", now) != now:
                return True
        return False

    def _content(self) -> dict[str, Any]:
        return {**self.study.to_dict(), "limits": self.limits._asdict(), "keep": self.keep}


def _path(root: Path) -> Path:
    return root / "study.json"


def _read(root: Path) -> StudyFolder | None:
    path = _path(root)
    try:
        written = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        name, limits, keep = written.pop("name"), written.pop("limits"), written.pop("keep", "none")
        if not isinstance(name, str) or keep not in get_args(Keep) or not _are_limits(limits):
            raise ValueError(f"has name: {shown(name)}, limits: {shown(limits)}, keep: {shown(keep)}")
        return StudyFolder(root, study_of(path, name, written), Limits(**limits), keep)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, StudyError) else type(error).__name__
        raise StudyError(
            f"{path} is damaged ({why}), and says what the runs are of; bring back a copy, or take --fresh to put the "
            "folder aside and start anew"
        ) from error


def _are_limits(limits: Any) -> bool:
    return (
        isinstance(limits, dict)
        and set(limits) <= set(Limits._fields)
        and all(limit is None or (type(limit) is int and limit > 0) for limit in limits.values())
    )


def _refuse(constant: str) -> Any:
    raise ValueError(f"holds {constant}")


@contextmanager
def _nothing_running(root: Path) -> Iterator[None]:
    """Hold the locks of all runs, and of commands that start runs.

    Raises:
        StudyError: another process holds one of them.
    """
    with ExitStack() as stack:
        for path in [found for pattern in _LOCKS for found in sorted(root.glob(pattern))]:
            lock = FileLock(path)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                what = "the command" if path.parent == root else f"{path.parent.relative_to(root)}"
                raise StudyError(
                    f"{root} cannot be put aside while another process works in it ({what}); end that one, or wait "
                    "for its end"
                ) from None
            except OSError:  # the path is not a lock, but for example a folder
                continue
            stack.callback(lock.release)
        yield
