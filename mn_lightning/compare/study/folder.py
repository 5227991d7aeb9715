"""The folder of a study: what its runs are of is written in it, and cannot change while they are there."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mn_lightning.compare.study.study import Study, StudyError
from mn_lightning.utils.files import write_atomically

Keep = Literal["best", "last", "both", "none"]
"""Which checkpoints stay when a run has finished."""

_UNCHANGING = ("base", "limits", "prepare", "current_statistics")
_SINCE_0_1 = {"current_statistics": False}
"""What folders of earlier versions do not say."""


class Limits(NamedTuple):
    """Upper limits, for small machines.

    Attributes:
        epochs: of a run.
        samples: training samples in an epoch.
    """

    epochs: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class StudyFolder:
    """A study with its limits, and the folder for its results.

    ``study.json`` in the folder holds the study and the limits. The processes of the runs read them there, on whichever
    machine they are.
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
        limits, keep = Limits(**written.pop("limits")), written.pop("keep")
        return cls(root, Study.from_dict(written), limits, keep)

    @property
    def is_written(self) -> bool:
        """Whether the folder is of this study as it is now."""
        written = _read(self.root)
        return written is not None and {**_SINCE_0_1, **written, "keep": self.keep} == self._content()

    def open(self, fresh: bool = False) -> None:
        """Make the folder, or go on with it.

        Args:
            fresh: give the folder that is there another name, and make a new one.

        Raises:
            StudyError: as :meth:`check_unchanged`.
        """
        if fresh and self.root.exists():
            aside = self.root.with_name(f"{self.root.name}-{datetime.now():%Y%m%d-%H%M%S}")
            self.root.rename(aside)
            print(f"earlier results are in {aside} now")
        self.check_unchanged()
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(_path(self.root), json.dumps(self._content(), indent=1))

    def check_unchanged(self) -> None:
        """Refuse to mix runs of different settings. New variants and seeds are accepted, and what is for the report.

        Raises:
            StudyError: the folder has runs with other settings.
        """
        written = _read(self.root)
        if written is None:
            return
        before, now = {**_SINCE_0_1, **written}, self._content()
        changes = [key for key in _UNCHANGING if key in before and _decisive(before[key]) != _decisive(now[key])]
        changes += [
            f"variant {name!r}"
            for name, overrides in before["variants"].items()
            if name in now["variants"] and _decisive(now["variants"][name]) != _decisive(overrides)
        ]
        if changes:
            raise StudyError(
                f"{self.root} holds runs of this study with another {', '.join(changes)}; take another --folder, or "
                "--fresh to put them aside and start anew"
            )

    def _content(self) -> dict[str, Any]:
        return {**self.study.to_dict(), "limits": self.limits._asdict(), "keep": self.keep}


def _decisive(settings: Any) -> Any:
    """Leave out where the batches are made: they are the same everywhere."""
    if isinstance(settings, dict):
        return {key: _decisive(value) for key, value in settings.items() if key.rpartition(".")[2] != "on_device"}
    return [_decisive(value) for value in settings] if isinstance(settings, list) else settings


def _path(root: Path) -> Path:
    return root / "study.json"


def _read(root: Path) -> dict[str, Any] | None:
    path = _path(root)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
