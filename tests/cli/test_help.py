"""That help is short, begins with examples, and leaves out no option."""

import re

import pytest

from mn_lightning.__main__ import main
from mn_lightning.cli.arguments import COMMANDS
from mn_lightning.cli.help import help_text
from mn_lightning.configs import config_names, study_names


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_a_screen_with_examples_first(command: str | None) -> None:
    text = help_text(command)
    lines = text.splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    options = [line.split()[0] for line in lines if line.startswith("  --") and not line.startswith("  --help ")]
    assert sorted(set(options)) == sorted(options)
    assert "{" not in text.replace("{norm: mixture, layers: {conv3: {n_components: 3}}}", "")
    first_example = next(i for i, line in enumerate(lines) if line.startswith("  mn-lightning"))
    assert first_example <= 4
    assert not any(line.startswith("  -") for line in lines[:first_example])


def test_what_is_shipped_is_named() -> None:
    assert all(name in help_text("fit") for name in config_names())
    assert all(name in help_text("compare") for name in study_names())
    assert all(f"\n  {command} " in help_text() for command in COMMANDS)


def test_all_options_of_compare_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    from mn_lightning.compare.command import compare

    with pytest.raises(SystemExit):
        compare(["--help"])
    options = set(re.findall(r"--[a-z_-]+", capsys.readouterr().out)) - {"--help"}
    assert options
    assert options <= set(re.findall(r"--[a-z_-]+", help_text("compare")))


@pytest.mark.parametrize(
    ("topic", "part"),
    [
        ("trainer", "--trainer.max_epochs MAX_EPOCHS"),
        ("NormSwapCallback", "mixture     activation, affine, em_iters"),
        ("ImageClassifier", "--num_classes NUM_CLASSES"),
        ("SGD", "--momentum MOMENTUM"),
        ("torch.nn.BatchNorm2d", "--num_features NUM_FEATURES"),
    ],
)
def test_topics(topic: str, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--help", topic])
    assert part in capsys.readouterr().out


def test_everything(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", "--help", "all"])
    assert caught.value.code == 0
    assert "--trainer.max_epochs MAX_EPOCHS" in capsys.readouterr().out


def test_another_topic(capsys: pytest.CaptureFixture[str]) -> None:
    for topic in ("NormSwap", "no.such.module", "torch.pi"):
        with pytest.raises(SystemExit) as caught:
            main(["fit", "--help", topic])
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "topics are trainer, all, and classes" in line
