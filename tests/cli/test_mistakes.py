"""Every mistake on a command line is one line that says what to do, and exit status 2."""

from pathlib import Path

import lightning.pytorch  # noqa: F401, its loggers must not be bound to one test's streams
import pytest
import torch

from mn_lightning.__main__ import main

QUICK = [
    "--trainer.fast_dev_run=true",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
    "--data.image_size=8",
]
CALLBACK = "trainer:\n  callbacks:\n    - class_path: NormSwapCallback\n      "


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def line_of(args: list[str], capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == status
    written = capsys.readouterr().err
    assert "Traceback" not in written
    # Before it there can be Lightning's "Seed set to 0" and "GPU available".
    (line,) = [line for line in written.splitlines() if line.startswith("mn-lightning")]
    assert written.endswith(f"{line}\n")
    return line.removeprefix(f"mn-lightning {args[0]}: ")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            CALLBACK + "init_args: {layer: conv3}",
            "a.yaml: trainer.callbacks: NormSwapCallback has no argument 'layer'; did you mean 'layers'? ",
        ),
        (CALLBACK + "init_args: {layers: conv9}", "layers 'conv9' matches no norm layer; the nearest is 'conv4'"),
        (CALLBACK + "init_args: {norm: mixtre}", "unknown norm 'mixtre'; the known norms are mixture,"),
        (CALLBACK + "dict_kwargs: {n_component: 3}", "norm 'mixture' got n_component; it takes activation,"),
        (
            CALLBACK + "init_args: {layers: {conv3: {n_component: 3}}}",
            "norm 'mixture' got n_component; it takes activation,",
        ),
        (
            CALLBACK + "init_args: {n_components: 3}",
            "a.yaml: trainer.callbacks: NormSwapCallback has no argument 'n_components'; ",
        ),
        (
            "trainer: {callbacks: [{class_path: NormSwpCallback}]}",
            "a.yaml: trainer.callbacks: there is no class 'NormSwpCallback'; did you mean 'NormSwapCallback'?",
        ),
        (
            "trainr: {max_epochs: 3}",
            "a.yaml: fit has no setting 'trainr.max_epochs'; did you mean 'trainer.max_epochs'?",
        ),
        (
            "trainer: {max_epoch: 3}",
            "a.yaml: fit has no setting 'trainer.max_epoch'; did you mean 'trainer.max_epochs'?",
        ),
        ("trainer: {max_epochs: three}", "a.yaml: trainer.max_epochs: got three; it takes a whole number"),
        (
            "model: {class_path: ImageClassifier, init_args: {network: CIFARConvNt}}",
            "a.yaml: model.network: there is no class 'CIFARConvNt'; did you mean 'CIFARConvNet'?",
        ),
        (
            "model: {class_path: ImageClassifier, init_args: {network: {class_path: CIFARConvNet, "
            "init_args: {in_chan: 1}}}}",
            "a.yaml: model.network: CIFARConvNet has no argument 'in_chan'; did you mean 'in_channels'? it takes in_",
        ),
        ("model: {class_path: ImageClassifier}\ndata: DigitsDataModule", "model: ImageClassifier needs network"),
        ("model: 3", "a.yaml: model: got 3; it takes the name of a class, or class_path and init_args"),
    ],
)
def test_in_a_configuration(text: str, start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    first = [] if text.endswith("DigitsDataModule") else ["--config=digits"]
    line = line_of(["fit", *first, "--config", "a.yaml", *QUICK], capsys)
    assert line.removeprefix("a.yaml: " * (not start.startswith("a.yaml"))).startswith(start), line


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (["--norm", "mixture"], "fit does not take '--norm mixture'; "),
        (
            ["--trainer.max_epohcs=3"],
            "fit does not take '--trainer.max_epohcs=3'; did you mean '--trainer.max",
        ),
        (["--model.num_classes=ten"], "model.num_classes: got ten; it takes a whole number"),
        (["--model.optimizer=Admm"], "model.optimizer: there is no class 'Admm'; did you mean 'Adam'?"),
        (["--trainer.precision=17"], "trainer.precision: got 17; it takes 64, 32, 16 or "),
        (["--trainer.devices=0"], "`Trainer(devices='0')` value is not a valid input using cpu accelerator."),
        (["--model.network.in_channels=3"], "CIFARConvNet got input of shape (64, 1, 8, 8); it takes (N, 3, H, W)"),
    ],
)
def test_on_the_command_line(args: list[str], start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line_of(["fit", "--config=digits", *QUICK, *args], capsys).startswith(start)


def test_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(["fit"], capsys)
    assert line.startswith("no model is given; write --config FILE, --config NAME (shipped are conv_net_cifar10, ")
    assert line_of(["inspect", "--config=digits"], capsys).startswith("inspect needs --ckpt_path; ")
    line = line_of(["test", "--config=digits", "--ckpt_path=no.ckpt"], capsys)
    assert line == "checkpoint 'no.ckpt' is not there; give the path of a .ckpt file"


def test_an_optimizer_for_a_model_that_steps_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(["fit", "--config=dcgan_digits", "--optimizer=Adam", *QUICK[:3]], capsys)
    assert line.startswith("--optimizer cannot be given for DCGAN, which makes and steps its own optimizers; ")


def test_damaged_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.ckpt").write_text("nothing")
    weights = {"a": torch.ones(1), "b": torch.ones(1), "network.conv1.conv.weight": torch.ones(2)}
    torch.save({"state_dict": weights}, tmp_path / "bare.ckpt")
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.6.1"}, tmp_path / "other.ckpt")
    for command in ("fit", "validate", "test", "predict", "inspect"):
        for name, part in (
            ("text", "is damaged or no checkpoint"),
            ("bare", "is not one of Lightning's"),
            (
                "other",
                "network.conv1.conv.weight has shape [2] in it and [64, 1, 5, 5] in the model; give the",
            ),
        ):
            quick = [*QUICK, f"--ckpt_path={name}.ckpt"]
            line = line_of([command, "--config=digits", *quick], capsys)
            assert part in line
            assert ("a and 1 more not in the model" in line) == (name == "other")


class Broken(torch.nn.Sequential):
    """A network with a mistake that comes in the second batch."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        self.batches = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        if self.batches == 2:
            raise KeyError("what is this")
        return super().forward(images)


def test_a_run_that_breaks_off(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["fit", "--model=ImageClassifier", f"--model.network={__name__}.Broken", "--data=DigitsDataModule"]
    quiet = [*QUICK[1:3], "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--data.image_size=8"]
    more = ["--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0", "--trainer.accelerator=cpu"]
    line = line_of([*args, *quiet, *more], capsys, status=1)
    assert line == "KeyError: 'what is this' (--traceback shows where)"
    with pytest.raises(KeyError, match="what is this"):
        main([*args, *quiet, *more, "--traceback"])


def test_what_a_class_says_of_its_arguments_is_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["layers", "--config", "digits", "--data.image_size", "-3"]
    assert line_of(given, capsys) == "image_size is -3; the digits are 8x8, give 8 or more"


def test_a_file_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a_file").touch()
    given = ["fit", "--config", "digits", "--trainer.default_root_dir", "a_file", *QUICK]
    assert line_of(given, capsys) == "trainer.default_root_dir is 'a_file', which is a file; give a folder"
