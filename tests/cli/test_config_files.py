"""What is no configuration is said by its name, at once."""

from pathlib import Path

import pytest

from mn_lightning.__main__ import main
from mn_lightning.cli.arguments import UsageError
from mn_lightning.cli.config_files import check_config_files
from mn_lightning.configs import config_names, config_path


def bomb() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it takes names and values"),
        ("# nothing\n", "is empty; it takes names and values"),
        ("- 1\n- 2\n", "is not a mapping; it takes names and values"),
        ("hello", "is not a mapping; it takes names and values"),
        ("model: 1\n3: 4\n", "has a key at line 2 that is not a name"),
        ("trainer: 5\n", ": trainer takes settings, such as"),
        ("model: [1\n", "is not YAML at line 2, column 1: "),
        ("model: \0\n", "is not YAML: unacceptable character #x0000"),
        (b"model: 1\nname: \xe9\n", "is not text in UTF-8, see line 2"),
        (bytes(range(256)), "is not text in UTF-8, see line "),
        ("trainer: &a\n  callbacks: *a\n", "contains itself, by an alias of the value at line "),
        (bomb(), "holds more than 100000 values"),
        ("model: !!python/object/apply:os.system ['touch executed']\n", "has a tag of Python's at line 1"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_what_is_no_configuration(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        check_config_files([str(path)])
    assert str(caught.value).startswith(f"{path} {message}".replace(" :", ":"))
    assert "\n" not in str(caught.value)


def test_configurations() -> None:
    check_config_files([*(str(config_path(name)) for name in config_names()), '{"model": {"class_path": "a"}}'])
    with pytest.raises(UsageError, match=r"^the configuration is not YAML at line 1"):
        check_config_files(["{model: "])


def test_aliases_in_measure(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: [1, 2]}\nb: [*a, *a, *a]\n")
    check_config_files([str(tmp_path / "a.yaml")])


@pytest.mark.parametrize("value", ["{max_epochs: 3}", "null", "", "trainer.yaml"])
def test_settings_of_the_trainer(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"trainer: {value}\n")
    check_config_files([str(tmp_path / "a.yaml")])


def test_the_command_line_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(bomb())
    with pytest.raises(SystemExit) as caught:
        main(["layers", "--config", str(tmp_path / "a.yaml")])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mn-lightning: ")
