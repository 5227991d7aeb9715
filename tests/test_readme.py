"""The README's Python and YAML, as they stand; its shell commands are run by ``.ci/run``."""

import re
from pathlib import Path

import pytest
import yaml

from mn_lightning import registry
from mn_lightning.__main__ import main
from mn_lightning.compare.study import load_study

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


@pytest.mark.parametrize("text", [block for block in blocks("yaml") if "variants:" not in block])
def test_configurations(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "readme.yaml").write_text(text)
    whole = [] if "model:" in text else ["--config", "digits"]
    main(["layers", *whole, "--config", "readme.yaml"])
    assert "Norm layers" in capsys.readouterr().out


def test_the_study(tmp_path: Path) -> None:
    base = yaml.safe_load(next(block for block in blocks("yaml") if "resnet18" in block))
    swap = base["trainer"]["callbacks"].pop(0)
    assert swap["class_path"] == "NormSwapCallback"
    (tmp_path / "my_model.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "my_study.yaml").write_text(next(block for block in blocks("yaml") if "variants:" in block))
    study = load_study("my_study.yaml")
    assert len(study.runs) == 9
    for variant in study.variants:
        main(["layers", *study.arguments(variant, 0)[1:]])


def test_there_is_something_to_test() -> None:
    assert len(blocks("python")) == 3
    assert len(blocks("yaml")) == 4
    assert len(blocks("sh")) == 4
