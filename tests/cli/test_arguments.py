"""What was typed: commands, configurations, spellings; nothing heavy is imported for any of it."""

import subprocess
import sys

import pytest

from mn_lightning.cli.arguments import COMMANDS, UsageError, config_files, resolve, split_command, with_underscores


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fit"], ("fit", [])),
        (["fit", "-c", "digits"], ("fit", ["-c", "digits"])),
        (["-c", "digits", "fit", "--a", "1"], ("fit", ["-c", "digits", "--a", "1"])),
        (["--config=digits", "-c", "b.yaml", "test"], ("test", ["--config=digits", "-c", "b.yaml"])),
        (["compare", "digits"], ("compare", ["digits"])),
    ],
)
def test_the_command_is_found(args: list[str], expected: tuple[str, list[str]]) -> None:
    assert split_command(args) == expected


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (["fitt"], "there is no command 'fitt'; did you mean 'fit'? the commands are fit, "),
        (["xyz"], "there is no command 'xyz'; the commands are fit, "),
        (["--config", "digits"], "no command is given; the commands are fit, "),
        (["--config"], "no command is given; the commands are fit, "),
    ],
)
def test_another_command_is_refused(args: list[str], start: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_command(args)
    assert str(caught.value).startswith(start)
    assert all(command in str(caught.value) for command in COMMANDS)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["digits"], "'digits' stands without an option; write --config digits"),
        (["my.yaml"], "'my.yaml' stands without an option; write --config my.yaml"),
        (["what", "--a"], "'what' stands without an option; write --config FILE for a configuration"),
        (["--a", "1", "--config"], "--config needs a file or a name; shipped are conv_net_cifar10"),
        (["--config", "digit"], "configuration 'digit' is neither a file nor shipped; shipped are conv_net_cifar10"),
    ],
)
def test_a_configuration_that_is_none(args: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("fit", args)
    assert str(caught.value).startswith(message)


def test_options_with_dashes() -> None:
    args = ["--limit-epochs", "2", "--trainer.max-epochs=3", "--only", "a-b", "-c", "x-y", "--a=b-c"]
    assert with_underscores(args) == ["--limit_epochs", "2", "--trainer.max_epochs=3", *args[3:]]


def test_configuration_files() -> None:
    assert config_files(["-c", "a", "--config=b", "--other", "c", "--config", "d"]) == ["a", "b", "d"]


def test_help_and_mistakes_need_nothing_heavy() -> None:
    code = """
import contextlib, io, sys
from mn_lightning.__main__ import main
for args in (["--help"], ["fit", "--help"], ["compare", "-h"], ["studies", "--help"], ["--version"], []):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(args)
    assert printed.getvalue(), args
for args in (["fitt"], ["fit", "digits"], ["fit", "-c", "digit"]):
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        try:
            main(args)
        except SystemExit as end:
            assert end.code == 2
    assert len(printed.getvalue().splitlines()) == 1
assert not {"torch", "lightning", "numpy", "yaml", "rich"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
