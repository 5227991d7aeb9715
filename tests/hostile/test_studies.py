"""``mn-lightning compare`` and ``studies``: study files, study folders and arguments that are damaged in every way."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.study_calls import BASE, VARIANTS
from hostile.inputs import (
    DAMAGES,
    FILE_NAMES,
    NAMES,
    VALUES,
    WORDS,
    YAML_TEXTS,
    YAML_VALUES,
    Content,
    place,
    with_values,
)
from hostile.rule import Ended, end_of

from mn_lightning.__main__ import main
from mn_lightning.compare.report import report
from mn_lightning.compare.runs import __main__ as run_process
from mn_lightning.compare.runs.run import Outcome, Progress, runs_in
from mn_lightning.compare.study.folder import StudyFolder
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.origin import Origin, this_maker, write_origin
from mn_lightning.compare.study.study import Limits
from mn_lightning.configs import study_names

pytestmark = [pytest.mark.slow]

STUDY: dict[str, Any] = {"base": BASE, "variants": VARIANTS, "baseline": "BN", "metric": "val_acc", "seeds": [0]}
OPTIONAL: dict[str, Any] = {
    "mode": "max", "published": {}, "prepare": {}, "paper": None, "table": None, "images": None, "references": {},
    "inspect": {}, "also": {},
}  # fmt: skip
METRICS = "epoch,step,seconds,val_acc\r\n0,5,1.5,0.25\r\n1,10,3.0,0.5\r\n"
REPORT = (r"studies/mine/(report\.md|results\.csv|curves.*\.png)",)


class _NoPicture:
    def savefig(self, *_: Any, **__: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "plot_curves", lambda *_: _NoPicture())  # drawing takes the time of ten inputs


def compare(*args: str, **rule: Any) -> Ended:
    return end_of(lambda: main(["compare", *args]), **rule)


def study_text(**changes: Any) -> str:
    return yaml.dump({**STUDY, **changes}, sort_keys=False, allow_unicode=True)


# --- study files --------------------------------------------------------------------------------------------------

REST = yaml.dump({key: value for key, value in STUDY.items() if key != "variants"})
TEXTS: dict[str, Content] = {
    **{f"damage: {name}": damage(study_text().encode()) for name, damage in DAMAGES.items()},
    **{f"text: {name}": text.format(good=study_text(), rest=REST).encode() for name, text in YAML_TEXTS.items()},
}
CONTENTS: dict[str, dict[Any, Any]] = {
    **dict(with_values({**STUDY, **OPTIONAL}, YAML_VALUES)),
    **{f"variant {name!r:.20}": {**STUDY, "variants": {"BN": {}, name: {}}} for name in NAMES},
    **{f"prepared {name!r:.20}": {**STUDY, "prepare": {name: "digits"}} for name in NAMES},
    **{f"option {name!r:.20}": {**STUDY, "variants": {"BN": {name: 1}}} for name in NAMES},
    **{f"base {name!r:.20}": {**STUDY, "base": name} for name in NAMES},
    **{f"overrides {name}": {**STUDY, "variants": {"BN": value}} for name, value in YAML_VALUES.items()},
    **{f"override {name}": {**STUDY, "variants": {"BN": {"a.b": value}}} for name, value in YAML_VALUES.items()},
    **{f"published BN {name}": {**STUDY, "published": {"BN": value}} for name, value in YAML_VALUES.items()},
    **{f"published 25% {name}": {**STUDY, "published": {"BN": {"25%": value}}} for name, value in YAML_VALUES.items()},
    **{f"also {name}": {**STUDY, "also": {"x": value}} for name, value in YAML_VALUES.items()},
    **{f"inspect {name}": {**STUDY, "inspect": {"BN": value}} for name, value in YAML_VALUES.items()},
    **{f"layer {name}": {**STUDY, "inspect": {"BN": {"layer": value}}} for name, value in YAML_VALUES.items()},
    **{f"baseline of {name!r:.20}": {**STUDY, "baseline": {name: "BN"}} for name in NAMES},
    **{f"seeds {name}": {**STUDY, "seeds": [0, value]} for name, value in YAML_VALUES.items()},
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_a_study(name: str) -> None:
    place(Path("mine.yaml"), TEXTS[name])
    ended = compare("mine.yaml", "--report", statuses=[1, 2])
    assert "mine" in ended.line
    if name in ("text: a key twice", "text: a variant twice"):
        assert f"gives {'BN' if 'variant' in name else 'variants'!r} twice" in ended.line


def test_contents_of_a_study() -> None:
    """Several hundred, so that a test for each would take longer than they do."""
    for name, content in CONTENTS.items():
        Path("mine.yaml").write_text(yaml.dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        try:
            ended = compare("mine.yaml", "--report", statuses=[1, 2])
            assert "mine" in ended.line
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
    assert len(CONTENTS) > 500


@pytest.mark.parametrize("name", FILE_NAMES, ids=lambda name: ascii(name)[:20])
def test_names_of_a_study(name: str) -> None:
    Path(name).write_text(study_text())
    compare("--report", "--", name, statuses=[1, 2])


def test_bases_beside_a_study() -> None:
    for name, damage in DAMAGES.items():
        place(Path("mine.yaml"), study_text(base="beside.yaml").encode())
        place(Path("beside.yaml"), damage(yaml.dump(BASE).encode()))
        ended = compare("mine.yaml", "--report", statuses=[1, 2])
        assert ended.status == 1 or "beside.yaml" in ended.line, name
        shutil.rmtree("beside.yaml") if Path("beside.yaml").is_dir() else Path("beside.yaml").unlink()


# --- study folders ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study's file and its results, which no training has made."""
    home = tmp_path_factory.mktemp("finished")
    (home / "mine.yaml").write_text(study_text())
    folder = StudyFolder(home / "studies" / "mine", load_study(str(home / "mine.yaml")), Limits())
    folder.open()
    for run in runs_in(folder):
        run.open()
        run.metrics_path.write_bytes(METRICS.encode())
        run.set_outcome(Outcome("finished", "", 3.5))
        run.set_progress(Progress(1.0, 0.5, 0.0))
        write_origin(run.folder, Origin(run.settings(folder.limits), "", (this_maker(),)))
        (run.folder / "lock").touch()
    return home


RUN = Path("studies/mine/runs/BN/seed-0")
STATE = ("outcome.json", "progress.json", "metrics.csv", "run.json", "lock", "log.txt", "checkpoints/last.ckpt")


@pytest.fixture
def copied(finished: Path) -> None:
    shutil.copytree(finished, ".", dirs_exist_ok=True, symlinks=True)


def json_inputs(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give each key of a JSON file values of all types."""
    for name, content in with_values(json.loads(path.read_text()), VALUES):
        yield name, json.dumps(content).encode()


def csv_inputs(text: str) -> Iterator[tuple[str, bytes]]:
    for name, value in {**VALUES, "comma": "1,2", "quote": '"'}.items():
        yield f"value {name}", text.replace("0.25", str(value)[:2000]).encode()
        yield f"step {name}", text.replace(",5,", f",{str(value)[:2000]},").encode()
        yield f"column {name}", text.replace("val_acc", str(value)[:2000]).encode()


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("file", STATE)
def test_files_of_a_run(file: str) -> None:
    """A report of the other run comes in any case."""
    path = RUN / file
    good = path.read_bytes() if path.exists() else b""
    inputs: list[tuple[str, Content]] = [(name, damage(good)) for name, damage in DAMAGES.items()]
    if file.endswith(".json"):
        inputs += json_inputs(path)
    if file == "metrics.csv":
        inputs += csv_inputs(METRICS)
    for name, content in inputs:
        place(path, content)
        try:
            ended = compare("mine.yaml", "--report", may_change=REPORT, statuses=[0])
            results = Path("studies/mine/results.csv").read_text().splitlines()
            assert sum(row.startswith("MN,0,") for row in results) == 2
            rows = sum(row.startswith("BN,0,") for row in results)
            said = any(word in ended.out for word in ("BN, seed 0 failed: ", "BN, seed 0 has not finished"))
            assert said != (rows > 0), ended.out
        except Exception as error:
            raise AssertionError(f"{file}, {name}: {error}") from error
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("args", [("--report",), ("--fresh", "--prepare", "nothing")], ids=["report", "fresh"])
def test_the_studys_own_file(args: tuple[str, ...]) -> None:
    path = Path("studies/mine/study.json")
    inputs: list[tuple[str, Content]] = [(name, damage(path.read_bytes())) for name, damage in DAMAGES.items()]
    for name, content in [*inputs, *json_inputs(path)]:
        place(path, content)
        try:
            ended = compare("mine.yaml", *args, may_change=REPORT)
            assert (
                ended.status == 0 or "study.json" in ended.line or "another" in ended.line or "--prepare" in ended.line
            )
        except Exception as error:
            raise AssertionError(f"study.json, {name}: {error}") from error
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("args", [(), ("--fresh",), ("--report",), ("--only", "BN", "--seed", "0")], ids=" ".join)
def test_folders_that_are_no_studys(args: tuple[str, ...]) -> None:
    Path("mine.yaml").write_text(study_text())
    Path("thesis").mkdir()
    Path("thesis/report.md").write_text("years of work")
    place(Path("thesis/study"), b"")
    for folder in ("thesis", "mine.yaml", "mine.yaml/x", "/dev/null", "/dev/null/x", "/proc/x", "thesis/report.md"):
        ended = compare("mine.yaml", "--folder", folder, *args, statuses=[1, 2])
        assert ended.status == 2 or "nothing to report" in ended.line
    Path("here").symlink_to("thesis")
    compare("mine.yaml", "--folder", "here", *args, statuses=[2])


TRAINED = (r"studies/mine/runs/BN/seed-0/.*",)


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("damage", ["empty", "half", "binary", "a list", "a folder with a file", "a link to itself"])
@pytest.mark.parametrize("file", STATE)
def test_a_run_with_damaged_files_is_trained_or_says_why(file: str, damage: str) -> None:
    """In this process; ``log.txt`` is its supervisor's."""
    good = (RUN / file).read_bytes() if (RUN / file).exists() else bytes(1000)
    (RUN / "outcome.json").unlink()
    place(RUN / file, DAMAGES[damage](good))
    ended = end_of(
        lambda: run_process.main(["studies/mine", "BN", "0"]), may_change=TRAINED, statuses=[0, 1], only_ours=False,
        set_aside=True,
    )  # fmt: skip
    outcome = json.loads((RUN / "outcome.json").read_text()) if ended.status == 0 or file != "outcome.json" else None
    if ended.status == 0:
        assert outcome["status"] == "finished"
        assert (RUN / "metrics.csv").read_text().count("\n") == 4
    else:
        assert str(RUN / file) in ended.line
        assert outcome is None or str(RUN / file) in outcome["error"]


# --- arguments ----------------------------------------------------------------------------------------------------

OPTIONS = (
    "--folder", "--only", "--seed", "--prepare", "--jobs", "--gpus_per_job", "--backend", "--address", "--keep",
    "--limit_epochs", "--limit_samples", "--limit-epochs", "--nothing", "--report", "--dry_run", "-x", "",
)  # fmt: skip


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("option", OPTIONS)
def test_arguments(option: str) -> None:
    for word in WORDS:
        for args in ([option, word], [f"{option}={word}"], [option], [option, word, option, word]):
            ended = compare("mine.yaml", "--report", *args, may_change=REPORT)
            assert "usage:" not in ended.line


@pytest.mark.parametrize("word", WORDS, ids=lambda word: ascii(word)[:20])
def test_words_in_place_of_a_study(word: str) -> None:
    compare(word, "--report", statuses=[1, 2])
    end_of(lambda: main(["studies", word]), statuses=[2])
    end_of(lambda: main(["studies", f"--{word}"]), statuses=[2])


def test_no_study_of_ours_is_refused() -> None:
    """The rule would hold for a command that refuses everything."""
    for name in study_names():
        ended = compare(name, "--report", statuses=[1])
        assert "nothing to report" in ended.line
    assert os.listdir() == []
