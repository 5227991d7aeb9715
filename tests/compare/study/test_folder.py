"""What a study's folder accepts, and what it refuses without touching anything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from mn_lightning.compare.runs.session import Session
from mn_lightning.compare.study.folder import StudyFolder
from mn_lightning.compare.study.study import Limits, Study, StudyError

STUDY = Study("mine", ({"trainer": {"max_epochs": 2}},), {"BN": {}, "MN": {"model.lr": 0.1}}, "BN", "val_acc")


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "mine", STUDY, Limits(3, None), "best")


def test_what_is_written_is_read(folder: StudyFolder) -> None:
    folder.open()
    assert StudyFolder.read(folder.root) == folder
    assert folder.is_written
    assert not replace(folder, limits=Limits()).is_written


def test_an_empty_folder_is_taken(folder: StudyFolder) -> None:
    folder.root.mkdir()
    (folder.root / ".hidden").touch()
    folder.open()
    assert folder.is_written


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_something_else_is_left_alone(folder: StudyFolder, fresh: bool) -> None:
    folder.root.mkdir()
    (folder.root / "report.md").write_text("years of work")
    with pytest.raises(
        StudyError, match=r"no file study\.json, so it is not a study's folder; nothing in it was changed"
    ):
        folder.open(fresh=fresh)
    assert [path.name for path in folder.root.parent.iterdir()] == ["mine"]
    assert [path.read_text() for path in folder.root.iterdir()] == ["years of work"]
    (folder.root / "report.md").unlink()
    folder.root.rmdir()
    folder.root.touch()
    with pytest.raises(StudyError, match="is not a folder"):
        folder.open(fresh=fresh)


@pytest.mark.parametrize("place", ["runs/MN/seed-2", "prepare/features"])
def test_a_study_is_not_put_aside_while_a_run_is_trained(folder: StudyFolder, place: str) -> None:
    folder.open()
    (folder.root / place).mkdir(parents=True)
    with FileLock(folder.root / place / "lock"):
        with pytest.raises(StudyError, match=rf"cannot be put aside while another process works in it \({place}\)"):
            folder.open(fresh=True)
        folder.open()
    assert [path.name for path in folder.root.parent.iterdir()] == ["mine"]
    folder.open(fresh=True)
    assert len(list(folder.root.parent.iterdir())) == 2


def test_a_study_is_not_put_aside_between_two_runs_of_a_command(folder: StudyFolder) -> None:
    folder.open()
    session = Session(folder.root)
    with pytest.raises(StudyError, match=r"another process works in it \(the command\)"):
        folder.open(fresh=True)
    session.close()
    folder.open(fresh=True)


def test_studies_are_put_aside_one_after_the_other(folder: StudyFolder) -> None:
    for count in (1, 2, 3):
        folder.open(fresh=True)
        assert len(list(folder.root.parent.iterdir())) == count


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "mine"}', "x", '{"a": NaN}'])
def test_a_damaged_file_is_named(folder: StudyFolder, text: str) -> None:
    folder.open()
    (folder.root / "study.json").write_text(text)
    with pytest.raises(
        StudyError, match=r"study\.json is damaged \(.+\), and says what the runs are of; bring back"
    ) as caught:
        folder.open()
    assert "\n" not in str(caught.value)
    folder.open(fresh=True)
    assert folder.is_written


def test_a_file_of_earlier_versions_is_read(folder: StudyFolder) -> None:
    """Without the keys that came later; with the seed of a configuration's file."""
    folder.open()
    content = json.loads((folder.root / "study.json").read_text())
    for key in ("prepare", "paper", "table", "images", "references", "inspect", "also"):
        del content[key]
    content["base"][0]["seed_everything"] = 0
    (folder.root / "study.json").write_text(json.dumps(content))
    assert StudyFolder.read(folder.root).study.variants == STUDY.variants
