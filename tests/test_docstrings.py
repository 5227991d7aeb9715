"""The examples in docstrings, each in a namespace of its own with the names of its module."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mn_lightning

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
WITH_EXAMPLES = (
    "functional",
    "gmm",
    "layers",
    "swap",
    "layers.update",
    "swap.registry",
    "swap.listing",
    "callbacks",
    "plots",
    "analysis.gates",
    "analysis.mixtures",
    "fid.frechet",
)
"""Modules of which each public function and class has an example; of packages, what ``__all__`` names."""


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(mn_lightning.__path__, "mn_lightning."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def documented(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The module, what is defined in it, and the members of its classes; also what a decorator has wrapped."""
    yield module.__name__, module
    for name, value in vars(module).items():
        if (inspect.isroutine(value) or inspect.isclass(value)) and value.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", value
            for member, inner in vars(value).items() if inspect.isclass(value) else ():
                yield f"{module.__name__}.{name}.{member}", getattr(inner, "__func__", inner)


def examples() -> list[Any]:
    found = []
    for module in modules():
        for name, value in documented(module):
            text = getattr(value, "__doc__", None)
            if isinstance(text, str) and ">>>" in text:
                test = doctest.DocTestParser().get_doctest(text, {}, name, module.__file__, 0)
                found.append(pytest.param(module, test, id=name.removeprefix("mn_lightning.")))
    return found


@pytest.mark.parametrize(("module", "test"), examples())
def test_example(module: ModuleType, test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "mn_lightning.swap.registry._NORMS", dict(importlib.import_module("mn_lightning.swap.registry")._NORMS)
    )
    output: list[str] = []
    test.globs = dict(vars(module))
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=output.append)
    assert not output, "".join(output)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_public_names_have_an_example(name: str) -> None:
    module = importlib.import_module(f"mn_lightning.{name}")
    public = getattr(module, "__all__", None)
    names = [
        name
        for name in public or vars(module)
        if not name.startswith("_")
        and (inspect.isroutine(value := getattr(module, name)) or inspect.isclass(value))
        and (public or value.__module__ == module.__name__)
    ]
    without = [name for name in names if ">>>" not in (getattr(module, name).__doc__ or "")]
    assert names
    assert not without, f"no example in the docstring of {', '.join(without)}"
