"""The files in ``examples``, run as the guide runs them: in one folder, each with what the one before it has left."""

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mn_lightning.__main__ import main
from mn_lightning.compare.study.load import load_study

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", "--trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of ``examples`` after ``mn-lightning fit --config my_model.yaml``."""
    copy = tmp_path_factory.mktemp("work") / "examples"
    shutil.copytree(EXAMPLES, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        patch.syspath_prepend(copy)
        main(["fit", "--config", "my_model.yaml", *QUICK])
        yield copy
        for name in ("my_module", "my_gan"):
            sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")  # tables whose words stay whole


def checkpoint(folder: Path) -> str:
    (found,) = folder.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    return f"--ckpt_path={found}"


@pytest.mark.parametrize("configuration", ["my_model.yaml", "lightning_logs/version_0/config.yaml"])
def test_the_checkpoint_can_be_tested(configuration: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--config", configuration, checkpoint(folder), "--trainer.logger=false"])
    assert "test_acc" in capsys.readouterr().out


def test_its_layers_can_be_inspected(folder: Path) -> None:
    main(["inspect", "--config", "my_model.yaml", checkpoint(folder), "--samples=64"])
    pictures = {path.name for path in (folder / "inspection").glob("*.png")}
    kinds = ("activations", "evolution", "posteriors")
    assert pictures == {"components.png", *(f"network.block2.norm-{kind}.png" for kind in kinds)}


def test_every_variant_of_the_study_can_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study("my_study.yaml")
    assert list(study.variants) == ["BatchNorm", "MixtureNorm", "ModeNorm"]
    swapped = []
    for variant in study.variants:
        main(["fit", *study.arguments(variant, 0)[1:], "--trainer.fast_dev_run=true"])
        printed = capsys.readouterr().out
        swapped.append([norm for norm in ("MixtureNorm", "ModeNorm") if f"{norm}(" in printed])
    assert swapped == [[], ["MixtureNorm"], ["ModeNorm"]], printed


def test_the_gan(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCH_HOME", str(folder))  # where the statistics of the real images are kept
    import my_gan

    my_gan.main(max_epochs=1)
    distance = float(capsys.readouterr().out.split("fd_digits: ")[1])
    assert distance > 0
    assert list(folder.glob("lightning_logs/*/samples/*.png"))


def test_a_command_line_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    swap = ["--trainer.callbacks=NormSwapCallback", "--trainer.callbacks.norm=mode"]
    arguments = ["fit", "--data.image_size=8", "--trainer.fast_dev_run=true", *swap]
    monkeypatch.setattr(sys, "argv", ["my_cli.py", *arguments])
    runpy.run_path("my_cli.py", run_name="__main__")
    assert capsys.readouterr().out.count("ModeNorm(") == 3


def test_the_notebook() -> None:
    """Its code runs, and it holds the outputs of a run, with a picture."""
    path = EXAMPLES / "my_notebook.ipynb"
    assert path.stat().st_size < 200_000
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("%")]  # Jupyter's own
        code = "\n".join(lines).replace("max_epochs=10", "max_epochs=1")
        exec(compile(code, "my_notebook.ipynb", "exec"), names)
