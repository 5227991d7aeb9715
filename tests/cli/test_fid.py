"""``mn-lightning fid``: the distance of a checkpoint's generator."""

from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401, its loggers must not be bound to one test's streams
import pytest
import torch
import yaml
from helpers.tiny_generator import Features

from mn_lightning.__main__ import main

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "model": {"class_path": "DCGAN", "init_args": {"channels": 1, "base_channels": 4, "max_generator_steps": 2}},
    "data": {"class_path": "DigitsDataModule", "init_args": {"normalize": "symmetric", "image_size": 32}},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "NormSwapCallback", "init_args": {"norm": "mode", "layers": "first"}},
            {
                "class_path": "FIDCallback",
                "init_args": {
                    "num_samples": 20,
                    "batch_size": 10,
                    "cache_dir": "cache",
                    "feature_extractor": {"class_path": f"{__name__}.Means"},
                },
            },
        ],
    },
}


class Means(Features):
    """Six features of images of 32x32 pixels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images[..., ::4, ::4])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that has measured its last weights, with its configuration."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("gan.yaml").write_text(yaml.safe_dump(CONFIG))
        main(["fit", "--config", "gan.yaml"])
    (checkpoint,) = folder.glob("checkpoints/*.ckpt")
    checkpoint.rename(folder / "gan.ckpt")
    return folder


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def test_the_distance_is_that_of_the_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["fid", "--config", "gan.yaml", "--ckpt_path", "gan.ckpt"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fd_means: ")]
    (state,) = [
        state
        for key, state in torch.load(run / "gan.ckpt", weights_only=True)["callbacks"].items()
        if key.startswith("FIDCallback")
    ]
    assert float(line.split()[1]) == pytest.approx(state["best"], rel=1e-5)  # which was measured at the end


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "gan.yaml", "--ckpt_path", "gan.ckpt", "--trainer.callbacks", "[]"], "there is no FIDCallback"),
        (["--config", "gan.yaml", "--ckpt_path", "none.ckpt"], "checkpoint 'none.ckpt' is not there"),
        (["--config", "gan.yaml"], "fid needs --ckpt_path"),
        (
            ["--config", "digits", "--ckpt_path", "gan.ckpt", "--trainer.callbacks+=FIDCallback"],
            "the checkpoint belongs to another model",
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["fid", *arguments])
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mn-lightning")]
    assert said in line
