"""A study that ends in pictures of its layers."""

from pathlib import Path

import pytest
from helpers.study_calls import BASE, call, swap, write


def test_the_report_draws_the_layers_of_the_first_finished_run(started: list[str]) -> None:
    callbacks = [*BASE["trainer"]["callbacks"], "MixtureMonitor"]
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 2, "callbacks": callbacks}}
    assert call(write(base=base, inspect={"MN": {"samples": 32, "channels": [0, 1]}}, seeds=[3, 4])) == 0
    report = Path("studies/mine/report.md").read_text()
    assert "MN, seed 3 ([with numbers](<layers/MN/index.html>)):" in report
    pictures = [line[5:-2] for line in report.splitlines() if line.startswith("![](<layers/MN/")]
    assert "layers/MN/components.png" in pictures
    assert {Path(name).stem.rpartition("-")[2] for name in pictures} >= {"activations", "evolution", "posteriors"}
    assert all((Path("studies/mine") / name).stat().st_size > 1000 for name in pictures)
    assert [run.parts[-4] for run in Path("studies/mine").glob("runs/*/*/checkpoints/last.ckpt")] == ["MN", "MN"]
    assert call("mine.yaml", "--report") == 0  # over the earlier ones


def test_what_cannot_be_drawn_is_said(started: list[str]) -> None:
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 1}}
    assert call(write(base=base, inspect={"BN": {}}, seeds=[0])) == 0
    assert "BN, seed 0: neither the checkpoint nor" in Path("studies/mine/report.md").read_text()


@pytest.mark.parametrize("given", [["MN"], {"XY": {}}, {"MN": {"layers": "all"}}], ids=str)
def test_what_to_inspect_is_checked(given: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(write(inspect=given)) == 2
    assert "it takes a mapping from variants to layer, channels, samples" in capsys.readouterr().err


def test_swapped_layers_are_found(started: list[str]) -> None:
    """Where layers have a mode in place of a mixture, there are gates."""
    variants = {"BN": None, "Mode": {"trainer.callbacks+": [swap("mode", n_components=2)]}}
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 1}}
    assert call(write(base=base, variants=variants, inspect={"Mode": {"samples": 32}}, seeds=[0])) == 0
    assert list(Path("studies/mine/layers/Mode").glob("*-posteriors.png"))
