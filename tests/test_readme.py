"""The README's and the guide's Python and YAML, as they stand, and the messages that docs/faq.md quotes.

The README's shell commands are run by ``.ci/run``. What cannot be run here stands in a fence without a language, and a
part of a file in ``examples`` in a fence of the language ``py``.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mn_lightning.__main__ import main
from mn_lightning.compare.command import _check_selection, _parse
from mn_lightning.compare.study.load import load_study
from mn_lightning.swap import registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLES = ROOT / "examples"
COMMAND = re.compile(r"^(?:mn-lightning|python) .*", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def named(language: str) -> list[object]:
    """All blocks, named after their page and their place on it."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, language))
    ]


def is_study(text: str) -> bool:
    return "variants:" in text


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))
    yield
    sys.modules.pop("my_module", None)


def shown_examples() -> list[str]:
    return [path.read_text() for path in EXAMPLES.iterdir() if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize("code", [block for block in named("python") if block.values[0] not in shown_examples()])
def test_python(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    for library in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        pytest.importorskip(library)  # some pages are about other libraries
    exec(compile(code, "page.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    if "test accuracy" in code:  # the README says what its last line is
        assert printed[-1] in {f"test accuracy: {accuracy}" for accuracy in ("0.98", "0.99", "1.00")}


@pytest.mark.parametrize("file", ["my_model.yaml", "my_study.yaml", "my_cli.py"])
def test_examples_that_the_guide_shows_whole(file: str) -> None:
    language = {".yaml": "yaml", ".py": "python"}[Path(file).suffix]
    shown = [block for page in PAGES for block in blocks(page, language)]
    assert shown.count((EXAMPLES / file).read_text()) == 1


@pytest.mark.parametrize("code", named("py"))
def test_parts_of_examples(code: str) -> None:
    assert any(code in text for text in shown_examples())


def test_the_guides_commands_name_files_that_are_there() -> None:
    """Of the examples, or of blocks on the pages; ``lightning_logs`` is what the first page makes."""
    made = {"my_change.yaml", "my_second_study.yaml", "my_gan.yaml", "my_classifier.yaml"}
    for page in sorted(ROOT.glob("docs/guide/*.md")):
        for command in COMMAND.findall(page.read_text()):
            for name in re.findall(r"\bmy_\w+\.(?:yaml|py)\b", command):
                assert name in made or (EXAMPLES / name).exists(), f"{page.name}: {command}"
            assert "version_" not in command or "version_0" in command, f"{page.name}: {command}"


@pytest.mark.parametrize("text", [block for block in named("yaml") if not is_study(block.values[0])])
def test_configurations(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.yaml").write_text(text)
    whole = [] if "model:" in text else ["--config", "digits"]
    main(["layers", *whole, "--config", "page.yaml"])
    assert "Norm layers" in capsys.readouterr().out


@pytest.mark.parametrize("text", [block for block in named("yaml") if is_study(block.values[0])])
def test_studies(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(text)
    study = load_study("page.yaml")
    assert len(study.runs) == len(study.variants) * len(study.seeds)
    for variant in study.variants:
        main(["layers", *study.arguments(variant, 0)[1:]])


def test_the_array_of_a_scheduler_has_a_job_for_each_run(tmp_path: Path) -> None:
    """The page's script, run by bash as SLURM does; the command is replaced by one that writes its arguments down."""
    page = ROOT / "docs/guide/compare.md"
    (script,) = blocks(page, "bash")
    (tmp_path / "my_second_study.yaml").write_text(blocks(page, "yaml")[0])
    command = tmp_path / "mn-lightning"
    command.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    first, last = re.findall(r"--array=(\d+)-(\d+)", script)[0]
    study, runs = load_study("my_second_study.yaml"), []
    for number in range(int(first), int(last) + 1):
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(number)}
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
        name, *arguments = done.stdout.splitlines()
        options = _parse(arguments)
        _check_selection(study, options)
        assert (name, options.study) == ("compare", "my_second_study.yaml")
        runs.append((options.only, options.seed))
    assert runs == study.runs


def test_there_is_something_to_test() -> None:
    assert len(blocks(ROOT / "README.md", "python")) == 1
    assert len(blocks(ROOT / "README.md", "sh")) == 4
    assert len(named("python")) >= 10
    assert len(named("yaml")) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link


def literals() -> str:
    """Every string of the package's code, with … for what an f-string fills in; joined strings are one."""
    texts = []
    for path in (ROOT / "mn_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_quoted_messages_are_those_of_the_code() -> None:
    code = literals().replace("`", "'")
    quotes = re.findall(r"^> `(.*)`$", (ROOT / "docs/faq.md").read_text(), re.MULTILINE)
    assert len(quotes) > 30
    for quote in quotes:
        if quote.startswith("It looks like your LightningModule"):
            continue  # Lightning's
        for part in quote.split("…"):
            assert part.strip(" ,;:.()") in code, quote
