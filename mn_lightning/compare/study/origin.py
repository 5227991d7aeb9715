"""The origin of a run: its settings, machine and versions, in ``run.json`` in its folder."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mn_lightning.compare.study.study import Limits, Study
from mn_lightning.utils.files import write_atomically

NAME = "run.json"
_PACKAGES = ("mn-lightning", "torch", "lightning", "torchvision", "torchmetrics")


class Maker(NamedTuple):
    """The machine and the versions that a process trained with.

    Attributes:
        machine: its description for people.
        versions: of Python and of the packages that results depend on, by name.
    """

    machine: str
    versions: dict[str, str]

    @property
    def words(self) -> str:
        """A description in one line."""
        return f"{self.machine}; " + ", ".join(f"{name} {version}" for name, version in self.versions.items())


class Origin(NamedTuple):
    """The settings of a run, and where it was trained.

    Attributes:
        settings: what the study said about it, in the form of :func:`settings_of`.
        configuration: the whole configuration of ``mn-lightning fit``, as YAML.
        made_by: each different maker; there are several if an interrupted run was continued elsewhere.
    """

    settings: dict[str, Any]
    configuration: str
    made_by: tuple[Maker, ...]


def settings_of(study: Study, variant: str, limits: Limits) -> dict[str, Any]:
    """Return the settings that determine the runs of a variant, as plain values."""
    content = {**study.to_dict(), "limits": limits._asdict()}
    shared = {key: decisive(content[key]) for key in ("base", "prepare", "limits", "current_statistics")}
    return {**shared, "variant": decisive(content["variants"][variant])}


def decisive(settings: Any) -> Any:
    """Remove the settings that say where batches are made: the batches are the same everywhere."""
    if isinstance(settings, dict):
        return {key: decisive(value) for key, value in settings.items() if key.rpartition(".")[2] != "on_device"}
    return [decisive(value) for value in settings] if isinstance(settings, list) else settings


def this_maker() -> Maker:
    """Describe this process: its machine, and the versions of what it has imported."""
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{torch.get_num_threads()} CPU threads ({platform.machine()}, {capability}, {platform.system()})"
    if torch.cuda.is_available():
        machine = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, {machine}"
    return Maker(machine, {"Python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}})


def read_origin(folder: Path) -> Origin | None:
    """Read the origin of the run in this folder; None if there is none, as from versions before 0.2.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        makers = tuple(Maker(str(maker["machine"]), dict(maker["versions"])) for maker in content["made_by"])
        origin = Origin(content["settings"], content["configuration"], makers)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged") from error
    if not isinstance(origin.settings, dict):
        raise ValueError(f"{path} is damaged")
    return origin


def write_origin(folder: Path, origin: Origin) -> None:
    """Record the origin of the run in this folder."""
    made_by = [maker._asdict() for maker in origin.made_by]
    write_atomically(folder / NAME, json.dumps({**origin._asdict(), "made_by": made_by}, indent=1))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a copy of the source that is not installed
        return "unknown"
