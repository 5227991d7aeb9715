"""What a checkpoint may do to a command: bring numbers, and nothing else."""

import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401, its loggers must not be bound to one test's streams
import pytest
import torch
import yaml

from mn_lightning.__main__ import main

QUICK = [
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.limit_predict_batches=1",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
    "--data.image_size=8",
]


class Command:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config.yaml and the run.ckpt of a training, for all tests."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config=digits", "--test_after_fit=false", *QUICK])
    (checkpoint,) = folder.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    checkpoint.rename(folder / "run.ckpt")
    (folder / "lightning_logs/version_0/config.yaml").rename(folder / "config.yaml")
    return folder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """The address of the test's folder."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "inspect"])
def test_hyperparameters_of_a_checkpoint_build_nothing(command: str, run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "run.ckpt", weights_only=True)
    content["hyper_parameters"] = {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": {"class_path": "CIFARConvNet", "init_args": {"in_channels": 1}},
            "optimizer": {"class_path": "os.system", "init_args": {"command": "touch executed"}},
        },
    }
    torch.save(content, tmp_path / "plain.ckpt")
    main([command, "--config=digits", "--ckpt_path=plain.ckpt", "--test_after_fit=false", *QUICK])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "inspect"])
def test_a_checkpoint_with_objects_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "a": Command()}, tmp_path / "objects.ckpt")
    with pytest.raises(SystemExit) as caught:
        main([command, "--config=digits", "--ckpt_path=objects.ckpt", *QUICK])
    assert caught.value.code == 2
    assert "'objects.ckpt' holds Python objects, which could run code" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_from_the_web(run: Path, tmp_path: Path, website: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.save({"state_dict": {}, "a": Command()}, tmp_path / "objects.ckpt")
    (tmp_path / "run.ckpt").write_bytes((run / "run.ckpt").read_bytes())
    main(["test", "--config=digits", f"--ckpt_path={website}/run.ckpt", *QUICK])
    with pytest.raises(SystemExit) as caught:
        main(["test", "--config=digits", f"--ckpt_path={website}/objects.ckpt", *QUICK])
    assert caught.value.code == 2
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "inspect", "layers"])
def test_the_saved_configuration_works_in_every_command(command: str, run: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {"ckpt_path", "weights_only", "test_after_fit"} <= saved.keys()
    checkpoint = [] if command in ("fit", "layers") else [f"--ckpt_path={run / 'run.ckpt'}"]
    main([command, f"--config={run / 'config.yaml'}", *checkpoint])


def test_a_configuration_of_another_command_keeps_its_numbers(tmp_path: Path) -> None:
    """YAML reads 1e-3 as text, jsonargparse as a number."""
    (tmp_path / "a.yaml").write_text(
        "verbose: true\nmodel:\n  class_path: ImageClassifier\n  init_args:\n    network: CIFARConvNet\n"
        "    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1e-3}}\nreturn_predictions: false\n"
    )
    main(["layers", "--config=a.yaml"])
    (tmp_path / "b.yaml").write_text(
        "{verbose: true, model: {class_path: ImageClassifier, init_args: {network: LeNet}}}"
    )
    with pytest.raises(SystemExit) as caught:
        main(["layers", "--config=b.yaml", "--verbose=true"])  # typed by hand, it is a mistake
    assert caught.value.code == 2


def test_runs_without_a_logger_do_not_overwrite_each_others_configuration(tmp_path: Path) -> None:
    for epochs in (1, 2, 3):
        alone = [f"--trainer.max_epochs={epochs}", "--trainer.logger=false", "--test_after_fit=false"]
        main(["fit", "--config=digits", *QUICK, *alone])
    names = ["config.yaml", "config-v1.yaml", "config-v2.yaml"]
    assert [yaml.safe_load((tmp_path / name).read_text())["trainer"]["max_epochs"] for name in names] == [1, 2, 3]


def test_a_resumed_run_goes_on_with_the_random_states(run: Path) -> None:
    """The callback that does so needs no configuration."""
    states = torch.load(run / "run.ckpt", weights_only=True)["callbacks"]["RandomStateCallback"]["states"]
    assert states[0].keys() >= {"python", "numpy", "cpu"}
    assert "RandomStateCallback" not in (run / "config.yaml").read_text()
