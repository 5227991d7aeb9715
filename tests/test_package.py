"""The package as a whole: what imports what, what stands in its root, what is installed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

import mn_lightning

FOLDER = Path(mn_lightning.__file__).parent
LEVELS = [
    {"utils", "configs"},
    {"kernels", "data", "fid"},
    {"gmm"},
    {"functional"},
    {"layers"},
    {"swap", "analysis", "plugins"},
    {"models", "callbacks", "plots", "checkpoints"},
    {"inspection"},
    {"cli"},
    {"compare"},
    {"__main__"},
]
"""The rooms, low to high: what is in one imports from lower ones, and from no other of its own level."""
ROOMS = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
TORCH_ALONE = ("utils", "kernels", "gmm", "functional", "layers", "swap")
"""What someone without Lightning can use."""


def room_of(path: Path) -> str:
    return path.relative_to(FOLDER).parts[0].removesuffix(".py")


def imported_rooms(code: str) -> Iterator[str]:
    """Rooms of the package that a module imports from, wherever in the module."""
    for node in ast.walk(ast.parse(code)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, *rest = name.split(".")
            if package == "mn_lightning" and rest:
                # Public names of the root are those of layers and swap.
                yield rest[0] if rest[0] in ROOMS else "swap"


def upward(room: str, code: str) -> list[str]:
    return [other for other in imported_rooms(code) if other != room and ROOMS[other] >= ROOMS[room]]


def test_every_room_has_a_level() -> None:
    found = {room_of(path) for path in FOLDER.rglob("*.py")} - {"__init__"}
    assert found == set(ROOMS)


def test_nothing_imports_upwards() -> None:
    arrows = {
        f"{path.relative_to(FOLDER)} imports {other}"
        for path in FOLDER.rglob("*.py")
        if path != FOLDER / "__init__.py"
        for other in upward(room_of(path), path.read_text())
    }
    assert arrows == set()


@pytest.mark.parametrize(
    ("room", "code", "found"),
    [
        ("kernels", "from mn_lightning.gmm.fitting import fit", ["gmm"]),
        ("gmm", "def late():\n    import mn_lightning.layers.mixture", ["layers"]),
        ("layers", "from mn_lightning import MixtureNorm, functional", ["swap"]),
        ("data", "from mn_lightning.fid.images import to_bytes", ["fid"]),
        ("swap", "import torch\nfrom mn_lightning.layers import MixtureNorm\nfrom mn_lightning.swap import record", []),
    ],
)
def test_an_import_upwards_is_found(room: str, code: str, found: list[str]) -> None:
    assert upward(room, code) == found


def test_the_root_holds_public_modules_only() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "checkpoints.py", "plugins.py", "py.typed"}
    assert not {room for room in ROOMS if room.startswith("_")} - {"__main__"}


def test_the_core_needs_torch_alone() -> None:
    """Someone without Lightning can use every module of it."""
    code = f"""
import importlib, pkgutil, sys
for name in ("lightning", "pytorch_lightning", "torchmetrics", "torchvision", "sklearn", "jsonargparse", "rich"):
    sys.modules[name] = None  # importing it raises
import mn_lightning
for room in {TORCH_ALONE}:
    package = importlib.import_module(f"mn_lightning.{{room}}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            if error.name not in ("triton", "numba"):  # what makes it faster where it is installed
                raise
        print(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {"mn_lightning.layers.mixture", "mn_lightning.utils.random"} <= set(done.stdout.split())


def test_every_public_name_is_there_and_documented() -> None:
    for name in mn_lightning.__all__:
        assert getattr(mn_lightning, name).__doc__


def test_types_and_configurations_are_installed() -> None:
    assert (FOLDER / "py.typed").is_file()
    assert (FOLDER / "configs" / "digits.yaml").is_file()


def test_the_dependencies_have_lower_bounds_and_admit_what_comes() -> None:
    for requirement in requires("mn-lightning") or []:
        name = requirement.partition(";")[0]
        assert ">=" in name
        assert "<" not in name
        assert "==" not in name
