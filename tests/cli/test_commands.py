"""The command line, in this process but for what depends on the process."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from mn_lightning.__main__ import main
from mn_lightning.configs import config_names

QUICK = [
    "--trainer.fast_dev_run=true",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
    "--data.image_size=32",
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["digits", "dcgan_digits"])
def test_shipped_configurations_fit_from_any_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", name, *QUICK])
    printed = capsys.readouterr().out
    assert "Swapped norm layers" in printed
    assert ("Test metric" in printed) == (name == "digits")


@pytest.mark.parametrize("name", config_names())
def test_shipped_configurations_are_complete(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["layers", "--config", name])  # makes everything, without reading data that may not be there
    assert "BatchNorm2d" in capsys.readouterr().out


def test_the_papers_gan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "-c", "dcgan_digits", "--model.max_generator_steps=1", "--trainer.enable_progress_bar=false"])
    printed = capsys.readouterr().out
    first, second = (line for line in printed.splitlines() if "n_components=3, em_iters=2" in line)
    assert "generator.deconv1.norm" in first
    assert "generator.deconv2.norm" in second
    assert (tmp_path / "lightning_logs" / "version_0" / "samples" / "000001.png").is_file()


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_other_subcommands_swap_too(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([subcommand, "--config=digits", *QUICK])
    assert "network.conv3.norm" in capsys.readouterr().out


def test_digits_is_the_run_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "-c", "digits", *QUICK])
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if "MixtureNorm(" in line]
    for part in ("network.conv3.norm", "BatchNorm2d(128)", "n_components=3, em_iters=2"):
        assert part in row


def test_layers_lists_what_can_be_swapped(capsys: pytest.CaptureFixture[str]) -> None:
    main(["layers", "--config", "digits"])
    printed = capsys.readouterr().out
    for name, channels, shape in [
        ("network.conv1.norm", "64", "64×32×32"),
        ("network.conv2.norm", "128", "128×16×16"),
        ("network.conv3.norm", "128", "128×8×8"),
        ("network.conv4.norm", "256", "256×4×4"),
    ]:
        (row,) = [line for line in printed.splitlines() if name in line]
        assert [cell.strip() for cell in row.strip("│ ").split("│")] == [name, "BatchNorm2d", channels, shape]


def test_layers_of_a_network_without_example_input(capsys: pytest.CaptureFixture[str]) -> None:
    main(["layers", "--model=ImageClassifier", "--model.network=torchvision.models.resnet18"])
    printed = capsys.readouterr().out
    assert "network.layer4.1.bn2" in printed
    assert "The shapes are unknown: the model has no example_input_array, and no data is given." in printed


OWN = """
from torch import nn

class MyNetwork(nn.Sequential):
    def __init__(self, features: int = 64) -> None:
        super().__init__(nn.Flatten(), nn.Linear(features, 7), nn.BatchNorm1d(7), nn.Linear(7, 10))
"""


def test_layers_shows_the_shapes_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    model = ["--model=ImageClassifier", "--model.network=own_network.MyNetwork"]
    data = ["--data=DigitsDataModule", "--data.image_size=8"]
    main(["layers", *model, *data])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "network.2" in line]
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["network.2", "BatchNorm1d", "7", "7"]
    main(["layers", *model, *data, "--model.network.features=9"])
    printed = capsys.readouterr().out
    assert "BatchNorm1d" in printed
    assert "The shapes are unknown: mat1 and mat2 shapes cannot be multiplied" in printed
    missing = ["--data=TorchvisionDataModule", "--data.dataset=CIFAR10", f"--data.root={tmp_path}"]
    main(["layers", *model, *missing])
    printed = capsys.readouterr().out
    assert "BatchNorm1d" in printed
    assert "The shapes are unknown: " in printed


def test_a_configuration_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text(
        """
model:
  class_path: ImageClassifier
  init_args:
    network: {class_path: CIFARConvNet, init_args: {in_channels: 1}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9, nesterov: true}}
data: DigitsDataModule
trainer:
  fast_dev_run: true
  callbacks:
    - class_path: NormSwapCallback
      init_args:
        norm: mode
        layers: {conv2: {n_components: 4}, last: null}
"""
    )
    main(["fit", "--config", "own.yaml", "--data.batch_size=16"])
    printed = capsys.readouterr().out
    assert "ModeNorm(128, n_components=4" in printed
    assert "ModeNorm(256, n_components=2" in printed
    assert "Test metric" not in printed  # nobody asked for a test


def test_a_fit_that_is_resumed_and_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--config", "digits", "--data.image_size=8", "--data.batch_size=16"]
    short = [*small, "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    main(["fit", *short, "--trainer.max_epochs=1", "--test_after_fit=false"])
    (checkpoint,) = tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    saved = yaml.safe_load((tmp_path / "lightning_logs/version_0/config.yaml").read_text())
    assert saved["trainer"]["callbacks"][0]["init_args"]["layers"] == {"conv3": {"n_components": 3, "em_iters": 2}}
    main(["fit", *short, "--trainer.max_epochs=2", f"--ckpt_path={checkpoint}"])
    (resumed,) = tmp_path.glob("lightning_logs/version_1/checkpoints/*.ckpt")
    assert torch.load(resumed, weights_only=True)["global_step"] == 4
    main(["test", *small, f"--ckpt_path={resumed}"])
    assert "test_acc" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--config", "digit"], ["--config=digit"], ["-c", "digit"]])
def test_an_unknown_configuration_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fit", *arguments])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    start, _, shipped = line.rpartition(" are ")
    assert start == "mn-lightning: configuration 'digit' is neither a file nor shipped; shipped"
    assert {"dcgan_digits", "digits"} < set(shipped.split(", "))


def test_a_file_goes_before_a_shipped_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits").write_text("model:\n  class_path: ImageClassifier\n  init_args: {network: CIFARConvNet}\n")
    main(["layers", "--config", "digits"])
    assert "conv4" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"mn-lightning {version('mn-lightning')}\n"
    code = """
import sys
sys.argv = ["mn-lightning", "--version"]
import mn_lightning.__main__
mn_lightning.__main__.main()
assert not {"torch", "lightning", "numpy", "yaml", "rich"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mn_lightning", "--help"], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("mn-lightning trains")
    for subcommand in ("fit", "validate", "test", "predict", "layers", "inspect", "fid", "compare", "studies"):
        assert f"\n  {subcommand} " in done.stdout


def test_the_installed_command_finds_a_module_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(
        "from torch import nn\n\n\nclass MyNetwork(nn.Sequential):\n"
        "    def __init__(self, channels: int) -> None:\n"
        "        super().__init__(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels))\n"
    )
    command = Path(sys.executable).with_name("mn-lightning")
    network = ["--model.network=my_module.MyNetwork", "--model.network.channels=7"]
    done = subprocess.run(
        [command, "layers", "--model=ImageClassifier", *network], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "BatchNorm2d" in done.stdout


def test_a_configuration_written_out_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"model": {"class_path": "ImageClassifier", "init_args": {"network": "CIFARConvNet"}}}'
    main(["layers", "--config", text])
    assert "conv4" in capsys.readouterr().out
