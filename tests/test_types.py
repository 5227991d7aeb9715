"""What a type checker says of calls: right ones pass, and each mistake is found."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from mn_lightning.swap import arguments, norm_arguments

ROOT = Path(__file__).parents[1]

OF_THE_CALLBACK = """
NormSwapCallback()
NormSwapCallback(["conv3"], n_components=3, em_iters=4, scale="unit", sync=True)
NormSwapCallback({"conv2": {"n_components": 5}, "conv3": None}, "mixture", True, affine=None)
NormSwapCallback("last:2", norm="mode", momentum=None, running="total")
NormSwapCallback("last", "mode_group", n_components=4)
NormSwapCallback(norm="batch", momentum=0.01)
NormSwapCallback(norm="group", channels_per_group=16)
NormSwapCallback(norm="instance")
NormSwapCallback(norm=NormName("timm.layers.FilterResponseNormTlu2d"), anything=1)
NormSwapCallback(norm="mixtre")  # wrong
NormSwapCallback(n_component=3)  # wrong
NormSwapCallback(norm="mixture", momentum=0.1)  # wrong
NormSwapCallback(norm="mode", em_iters=2)  # wrong
NormSwapCallback(scale="none")  # wrong
NormSwapCallback(norm="mode", running="all")  # wrong
NormSwapCallback(norm="mode", n_components="3")  # wrong
NormSwapCallback(norm="layer", num_groups=2)  # wrong
NormSwapCallback(norm="timm.layers.FilterResponseNormTlu2d")  # wrong
NormSwapCallback(layer="conv3")  # wrong
NormSwapCallback({"conv2": {"n_components": 5, "sync": True}, nn.BatchNorm2d: {"scale": "unit"}})
NormSwapCallback({"conv2": {"momentum": 0.3}, "conv3": {}}, norm="mode")
NormSwapCallback({"conv2": {"n_component": 5}})  # wrong
NormSwapCallback({"conv2": {"momentum": 0.3}}, norm="mixture")  # wrong
NormSwapCallback({"conv2": {"n_components": "5"}})  # wrong
NormSwapCallback({"conv2": {"num_groups": 2}}, norm="layer")  # wrong
NormSwapCallback({"conv2": {"anything": 2}}, NormName("mine"))
"""

CALLS = f"""
from torch import nn

from mn_lightning import swap_norms
from mn_lightning.callbacks import NormSwapCallback
from mn_lightning.swap import NormName

model = nn.Sequential()
{OF_THE_CALLBACK}
{OF_THE_CALLBACK.replace("NormSwapCallback(", "swap_norms(model, ")}
swap_norms(model, norm="mode", again=True, sync=True)
swap_norms(model, norm="group", sync=True)  # wrong
swap_norms(model, sync=None)  # wrong
print(swap_norms(model).unchanged)
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(900)
def test_mistakes_in_calls_are_found(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text(CALLS)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", tmp_path / "calls.py"],
        cwd=ROOT,  # where its cache is
        capture_output=True,
        text=True,
    )
    found = {int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line}
    wrong = {number for number, line in enumerate(CALLS.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("norm", "types"),
    [
        ("mixture", arguments.SyncedMixtureArguments),
        ("mode", arguments.SyncedModeArguments),
        ("mode_group", arguments.ModeGroupArguments),
        ("batch", arguments.BatchArguments),
        ("group", arguments.GroupArguments),
        ("instance", arguments.NoArguments),
        ("layer", arguments.NoArguments),
    ],
)
def test_the_types_name_all_arguments(norm: str, types: Any) -> None:
    assert set(get_type_hints(types)) == norm_arguments(norm)
