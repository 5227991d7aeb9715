"""The kernels for GPUs: in Triton's interpreter, which has to be chosen before Triton is imported; on a GPU if any."""

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mn_lightning import ModeGroupNorm
from mn_lightning.kernels import select

CASES = Path(__file__).with_name("triton_cases.py")


def run(**environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on a machine that does nothing else
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_interpreted() -> None:
    run(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_compiled() -> None:
    run()


def test_importing_the_package_does_not_import_triton() -> None:
    modules = "mn_lightning.kernels.triton.ops", "mn_lightning.kernels.triton.launch"
    code = f"import sys, mn_lightning, mn_lightning.kernels.select; sys.exit(bool(sys.modules.keys() & set({modules})))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def _not_tried_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    select._triton.cache_clear()
    yield
    select._triton.cache_clear()


@pytest.mark.usefixtures("_not_tried_yet")
def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "find_spec", lambda name: None)
    layer, x = ModeGroupNorm(4), torch.randn(2, 4, 3, 3)
    with select.use("triton"):
        with pytest.warns(UserWarning, match="Triton is not installed.*pip install triton"):
            y = layer(x)
        with warnings.catch_warnings():  # said once
            warnings.simplefilter("error")
            layer(x)
    with select.use("reference"):
        assert torch.equal(y, layer(x))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.usefixtures("_not_tried_yet")
def test_where_triton_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler, a GPU that is too old."""
    from mn_lightning.kernels.triton import norms

    def without_compiler(of: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(norms, "try_out", without_compiler)
    with select.use("triton"), pytest.warns(UserWarning, match=r"\(RuntimeError: Failed to find C compiler\.\): norms"):
        assert ModeGroupNorm(4)(torch.randn(2, 4, 3, 3)).isfinite().all()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    assert "capability 8" in select._fault(torch.device("cuda"))
