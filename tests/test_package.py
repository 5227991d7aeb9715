import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import mn_lightning


@pytest.mark.parametrize("module", ["functional", "gmm", "layers", "swap"])
def test_the_core_needs_torch_alone(module: str) -> None:
    """Someone without Lightning can use it."""
    code = f"""
import sys
for name in ("lightning", "pytorch_lightning", "torchmetrics", "torchvision", "sklearn", "jsonargparse", "rich"):
    sys.modules[name] = None  # importing it raises
import mn_lightning
import mn_lightning.{module}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    for name in mn_lightning.__all__:
        assert getattr(mn_lightning, name).__doc__


def test_types_and_configurations_are_installed() -> None:
    folder = Path(mn_lightning.__file__).parent
    assert (folder / "py.typed").is_file()
    assert (folder / "configs" / "digits.yaml").is_file()


def test_the_dependencies_have_lower_bounds_and_admit_what_comes() -> None:
    for requirement in requires("mn-lightning") or []:
        name = requirement.partition(";")[0]
        assert ">=" in name
        assert "<" not in name
        assert "==" not in name
