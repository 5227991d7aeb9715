"""``fit``, ``test``, ``inspect`` and ``layers`` with configurations, checkpoints and image folders that are damaged."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401, its loggers must not be bound to one test's streams
import pytest
import torch
import yaml
from helpers.study_calls import BASE
from hostile.inputs import DAMAGES, WORDS, YAML_TEXTS, YAML_VALUES, Content, Folder, place, with_values
from hostile.rule import Ended, end_of
from PIL import Image

from mn_lightning.__main__ import main
from mn_lightning.cli.arguments import TRAINER_COMMANDS

pytestmark = [pytest.mark.slow]

CONFIG = {"model": BASE["model"], "data": BASE["data"], "trainer": {**BASE["trainer"], "logger": False}}
QUICK = ("--trainer.fast_dev_run=true", "--trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*args: str, **rule: Any) -> Ended:
    def call() -> int:
        main(args)
        return 0  # a command that has come to its end returns

    # Lightning saves the configuration before it looks at weights and data.
    return end_of(call, **{"only_ours": False, "may_change": [r"config(-v\d+)?\.yaml"], **rule})


def inputs_of_a_configuration() -> dict[str, Content]:
    """What can be said before a parser is made, which takes a second."""
    good = yaml.dump(CONFIG)
    texts = {name: text.format(good=good, rest=good).encode() for name, text in YAML_TEXTS.items()}
    return {**{name: damage(good.encode()) for name, damage in DAMAGES.items()}, **texts}


@pytest.mark.parametrize("name", inputs_of_a_configuration())
def test_texts_of_a_configuration(name: str) -> None:
    place(Path("a.yaml"), inputs_of_a_configuration()[name])
    ended = command("layers", "--config", "a.yaml", statuses=[0, 2])
    assert ended.status == 0 or "a.yaml" in ended.line or "also" in ended.line
    assert not Path("executed").exists()


KEYS = dict(with_values({"model": 1, "trainer": 1, "seed_everything": 1}, YAML_VALUES))
SOME = [name for at, name in enumerate(KEYS) if at % 5 == 0]
"""Each takes a second."""


@pytest.mark.parametrize("name", SOME)
def test_values_in_a_configuration(name: str) -> None:
    content = {**CONFIG, **{key: value for key, value in KEYS[name].items() if value != 1}}
    Path("a.yaml").write_text(yaml.dump(content))
    command("fit", "--config", "a.yaml", *QUICK)


@pytest.mark.parametrize("trainer_command", ["test", "inspect"])
@pytest.mark.parametrize(
    "damage", ["empty", "half", "without its end", "binary", "text", "a folder", "a link to itself"]
)
def test_checkpoints(damage: str, trainer_command: str, checkpoint: bytes) -> None:
    Path("a.yaml").write_text(yaml.dump(CONFIG))
    place(Path("a.ckpt"), DAMAGES[damage](checkpoint))
    ended = command(trainer_command, "--config", "a.yaml", "--ckpt_path", "a.ckpt", statuses=[2])
    assert "a.ckpt" in ended.line


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "a.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(3)}, "pytorch-lightning_version": "2.6.1"}, path)
    return path.read_bytes()


CHECKPOINTS: dict[str, Any] = {
    "a number": 3,
    "no weights": {"pytorch-lightning_version": "2.6.1"},
    "weights of another kind": {"state_dict": {"a": 3}, "pytorch-lightning_version": "2.6.1"},
    "weights of another model": {"state_dict": {"a": torch.zeros(3)}, "pytorch-lightning_version": "2.6.1"},
    "another version": {"state_dict": {"a": torch.zeros(3)}, "pytorch-lightning_version": "x"},
    "an object": {"state_dict": {}, "pytorch-lightning_version": "2.6.1", "x": Path("x")},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_contents_of_a_checkpoint(name: str) -> None:
    Path("a.yaml").write_text(yaml.dump(CONFIG))
    torch.save(CHECKPOINTS[name], "a.ckpt")
    command("test", "--config", "a.yaml", "--ckpt_path", "a.ckpt", statuses=[2])


@pytest.mark.parametrize("damage", ["empty", "half", "binary", "a folder", "a link to nothing"])
def test_images(damage: str) -> None:
    Image.new("L", (8, 8)).save("good.png")
    good = Path("good.png").read_bytes()
    for split in ("train", "val"):
        for kind in ("a", "b"):
            place(Path("images", split, kind, "0.png"), good)
    place(Path("images/train/a/1.png"), DAMAGES[damage](good))
    data = {"class_path": "ImageFolderDataModule", "init_args": {"root": "images", "image_size": 8}}
    network = {"class_path": "CIFARConvNet", "init_args": {"in_channels": 3}}
    model = {"class_path": "ImageClassifier", "init_args": {"network": network}}
    Path("a.yaml").write_text(yaml.dump({**CONFIG, "model": model, "data": data}))
    ended = command("fit", "--config", "a.yaml", *QUICK)
    assert ended.status == 0 or "images" in ended.line


@pytest.mark.parametrize("root", ["", "nothing", "a.yaml", "/dev/null", "empty"])
def test_folders_of_images(root: str) -> None:
    place(Path("empty"), Folder())
    data = {"class_path": "ImageFolderDataModule", "init_args": {"root": root, "image_size": 8}}
    Path("a.yaml").write_text(yaml.dump({**CONFIG, "data": data}))
    command("fit", "--config", "a.yaml", *QUICK, statuses=[2])
    shutil.rmtree("empty")


@pytest.mark.parametrize("word", WORDS, ids=lambda word: ascii(word)[:20])
def test_words(word: str) -> None:
    """Before a parser is made."""
    command(word or "fit", statuses=[2])
    for trainer_command in TRAINER_COMMANDS:
        command(trainer_command, "--config", f"{word}.yaml", statuses=[2])
