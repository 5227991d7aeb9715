"""Files that version 0.1.0 wrote: each is loaded, and gone on from, to the numbers that 0.1.0 computed from it.

They lie in files/version_0_1, with write.py, which wrote them. Numbers are compared in float64, so that the way to
compute them may change.
"""

import csv
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.__main__ import main
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.models import DCGAN, ImageClassifier
from mn_lightning.swap import swap_as_saved

OLD = Path(__file__).parent / "files" / "version_0_1"
NORMS: dict[str, tuple[type, type]] = {"mixture": (MixtureNorm, MixtureNorm), "mode": (ModeNorm, ModeGroupNorm)}


def _module(path: Path) -> Any:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parts = _module(OLD / "old_parts.py")

# ModelCheckpoint wrote to another folder then, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the files: to go on writes beside them."""
    return Path(shutil.copytree(OLD, tmp_path / "old", ignore=shutil.ignore_patterns("__pycache__")))


def recorded(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((OLD / f"{name}.json").read_text())
    return values


def close(expected: Any) -> Any:
    """The numbers to six digits; pytest takes no nested lists."""
    if isinstance(expected, list) and isinstance(expected[0], list):
        return [pytest.approx(row, rel=1e-6, abs=1e-6) for row in expected]
    return pytest.approx(expected, rel=1e-6, abs=1e-6)


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["nothing", "the checkpoint's record", "the state dict's metadata"])
@pytest.mark.parametrize("name", list(NORMS))
def test_a_checkpoint_evaluates_as_it_did(name: str, without: str, old: Path) -> None:
    """The swap stands in it twice; checkpoints of weights alone and those of averages have one of the two."""
    path = old / f"{name}.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    if without == "the checkpoint's record":
        del checkpoint["swapped_layers"]
    if without == "the state dict's metadata":
        del checkpoint["state_dict"]._metadata
    if without != "nothing":
        torch.save(checkpoint, path)
    model = load_from_checkpoint(ImageClassifier, path, network=parts.Network(), weights_only=True)
    assert (type(model.network[1]), type(model.network[5])) == NORMS[name]
    assert parts.evaluated(model, parts.numbers(4, 1, 8, 8)) == close(recorded(name)["outputs"])


@pytest.mark.parametrize("name", list(NORMS))
def test_a_checkpoint_evaluates_in_a_trainer(name: str, old: Path) -> None:
    """With the callbacks in place of load_from_checkpoint, and in float32."""
    x, model = parts.numbers(4, 1, 8, 8), parts.classifier()
    saver = ModelCheckpoint(old / name, "{step}", every_n_train_steps=parts.STOP)
    run = parts.trainer(old, parts.classifier_callbacks(name), saver)
    loader = DataLoader(x.float(), batch_size=4)
    (found,) = run.predict(model, loader, ckpt_path=old / f"{name}.ckpt")
    expected = torch.tensor(recorded(name)["outputs"]).softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(NORMS))
def test_a_training_goes_on(name: str, old: Path) -> None:
    """From the middle of its second epoch, with the optimizer's momentum and the scheduler's learning rate."""
    model = parts.classifier()
    saver = ModelCheckpoint(old / name, "{step}", every_n_train_steps=parts.STOP)
    callbacks = parts.classifier_callbacks(name)
    run = parts.trainer(old, callbacks, saver, max_epochs=parts.EPOCHS, precision="64-true")
    run.fit(model, parts.digits(), ckpt_path=old / f"{name}.ckpt")
    assert run.global_step == 13 * parts.EPOCHS
    values = recorded(name)
    metrics = {key: float(value) for key, value in run.callback_metrics.items()}
    assert metrics == close(values["metrics after resumed training"])
    assert parts.evaluated(model, parts.numbers(4, 1, 8, 8)) == close(values["outputs after resumed training"])


def test_a_state_dict_knows_its_swap(old: Path) -> None:
    state_dict = torch.load(old / "state_dict.pt", weights_only=True)
    model = parts.small_network()
    report = swap_as_saved(model, state_dict)
    assert [layer.name for layer in report] == ["1", "3"]
    assert (type(model[1]), type(model[3])) == (MixtureNorm, ModeNorm)
    assert isinstance(model[2], torch.nn.Identity)  # the activation is inside MixtureNorm
    model.load_state_dict(state_dict)
    assert parts.evaluated(model, parts.numbers(4, 3)) == close(recorded("state_dict")["outputs"])


# --- a GAN, and the statistics of its real images -----------------------------------------------------------------


def test_a_gan_generates_as_it_did(old: Path) -> None:
    values = recorded("gan")
    sizes = {"channels": 1, "image_size": 32, "latent_features": 1, "base_channels": 1}
    model = load_from_checkpoint(DCGAN, old / "gan.ckpt", weights_only=True, **sizes)
    assert model.generator_steps == values["generator_steps"]
    images = parts.evaluated(model, parts.numbers(2, 1))
    assert [image[::61] for image in images] == close(values["pixels"])


def test_a_gan_goes_on_with_the_cached_statistics(old: Path) -> None:
    (cache,) = (old / "cache").iterdir()
    before = cache.read_bytes(), cache.stat().st_mtime_ns
    extractor = parts.Quarters()
    saver = ModelCheckpoint(old / "gan", "gan")
    callbacks = parts.gan_callbacks(old / "cache", extractor)
    run = parts.trainer(old, callbacks, saver, max_epochs=parts.GAN_EPOCHS + 1, precision="64-true")
    run.fit(parts.gan(), parts.gan_loader(), ckpt_path=old / "gan.ckpt")
    assert list((old / "cache").iterdir()) == [cache]
    assert (cache.read_bytes(), cache.stat().st_mtime_ns) == before
    # The generated ones, the fingerprint's, and those that show that the statistics are this extractor's.
    assert recorded("gan")["images seen by the extractor"] == 24
    assert extractor.seen == 24 + 4 + 4
    expected = recorded("gan")["metrics after resumed training"]
    spread = expected.pop("kd_quarters/std")  # of rounding errors
    metrics = {key: float(value) for key, value in run.callback_metrics.items()}
    assert metrics.pop("kd_quarters/std") == pytest.approx(spread, abs=1e-5)
    assert metrics == close(expected)


def test_a_gan_leaves_statistics_of_another_function_alone(old: Path) -> None:
    class Quarters(parts.Quarters):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * 2

    (cache,) = (old / "cache").iterdir()
    callbacks, saver = parts.gan_callbacks(old / "cache", Quarters()), ModelCheckpoint(old / "gan")
    run = parts.trainer(old, callbacks, saver, max_epochs=1, precision="64-true")
    run.fit(parts.gan(), parts.gan_loader())
    assert {path.name.rpartition("-")[0] for path in (old / "cache").iterdir()} == {"fd_quarters", cache.stem}


# --- a study ------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(old: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the study was started and interrupted; commands run in it."""
    shutil.copy(old / "old_parts.py", old / "study")
    monkeypatch.chdir(old / "study")
    monkeypatch.setitem(sys.modules, "old_parts", parts)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("INTERRUPTED_BEFORE", "1")
    previous = signal.getsignal(signal.SIGTERM)
    yield old / "study"
    signal.signal(signal.SIGTERM, previous)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.processes
def test_a_study_is_finished(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = {name: study / "studies/old_study/runs" / name / "seed-0" for name in recorded("study")}
    finished = {path: path.read_bytes() for path in runs["BatchNorm"].rglob("*") if path.is_file()}
    (first,) = rows(runs["MixtureNorm"])
    assert not runs["ModeNorm"].exists()

    with pytest.raises(SystemExit) as end:
        main(["compare", "old_study.yaml"])

    printed, errors = capfd.readouterr()
    assert end.value.code == 0, errors
    assert "run 1 of 3" not in printed
    assert "run 2 of 3: MixtureNorm, seed 0" in printed
    assert "run 3 of 3: ModeNorm, seed 0" in printed
    assert {path: path.read_bytes() for path in runs["BatchNorm"].rglob("*") if path.is_file()} == finished
    checkpoint = runs["MixtureNorm"].relative_to(study) / "checkpoints" / "last.ckpt"
    log = (runs["MixtureNorm"] / "log.txt").read_text()
    assert "Restoring states from the checkpoint path at" in log
    assert str(checkpoint) in log.replace("\n", "")
    assert rows(runs["MixtureNorm"])[0] == first  # with its seconds, which another training would not have
    for name, expected in recorded("study").items():
        found = [{key: float(row[key]) for key in expected[0]} for row in rows(runs[name])]
        if name == "ModeNorm":  # from the start, by today's code, whose gates begin with other random numbers
            assert found == [pytest.approx(row, rel=1e-4) for row in expected]
        else:
            assert found == [close(row) for row in expected], name
        assert json.loads((runs[name] / "outcome.json").read_text())["status"] == "finished"
    report = (study / "studies/old_study/report.md").read_text()
    for name in runs:
        assert f"| {name} | 0 | finished |" in report


def test_the_configuration_that_a_run_saved_runs(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = study / "studies/old_study/runs/MixtureNorm/seed-0/lightning_logs/version_0/config.yaml"
    main(["fit", "--config", str(config), "--trainer.fast_dev_run=true"])
    assert "MixtureNorm(3, n_components=2" in " ".join(capsys.readouterr().out.split())
