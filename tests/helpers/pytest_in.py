"""The process of a pytest inside a test, forked from one that has imported everything."""

import os
import runpy
import sys
from pathlib import Path


def pytest_in(folder: Path) -> None:
    """Run pytest in ``folder``, with ``sys.argv``, as ``python -m pytest`` does."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    runpy.run_module("pytest", run_name="__main__")
