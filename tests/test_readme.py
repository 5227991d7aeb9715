"""The README's Python and YAML, as they stand; its shell commands are run by ``.ci/run``."""

import re
from pathlib import Path

import pytest

from mn_lightning import registry
from mn_lightning.__main__ import main

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "readme.yaml").write_text(text)
    whole = [] if "model:" in text else ["--config", "digits"]
    main(["layers", *whole, "--config", "readme.yaml"])
    assert "Norm layers" in capsys.readouterr().out


def test_there_is_something_to_test() -> None:
    assert len(blocks("python")) == 2
    assert len(blocks("yaml")) == 2
    assert len(blocks("sh")) == 3
