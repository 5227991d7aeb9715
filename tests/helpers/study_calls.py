"""Studies on a tiny network, and how they are called."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mn_lightning.__main__ import main

BASE = {
    "model": {
        "class_path": "ImageClassifier",
        "init_args": {
            "network": "helpers.study_parts.TinyNetwork",
            "optimizer": {"class_path": "torch.optim.RMSprop", "init_args": {"lr": 0.01, "momentum": 0.9}},
        },
    },
    "data": {"class_path": "DigitsDataModule", "init_args": {"batch_size": 256, "image_size": 8}},
    "trainer": {
        "max_epochs": 3,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": ["GMMRefitCallback", "QueueResetCallback"],
    },
}


def swap(norm: str, **arguments: Any) -> dict[str, Any]:
    layers = {"all": arguments}
    return {"class_path": "NormSwapCallback", "init_args": {"norm": norm, "layers": layers}}


VARIANTS: dict[str, Any] = {"BN": None, "MN": {"trainer.callbacks+": swap("mixture", n_components=2)}}


def write(**changes: Any) -> str:
    study = {"base": BASE, "variants": VARIANTS, "baseline": "BN", "metric": "val_acc", "seeds": [0, 1], **changes}
    Path("mine.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return "mine.yaml"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def files(pattern: str) -> list[str]:
    return sorted(str(path.relative_to("studies/mine")) for path in Path("studies/mine").glob(pattern))
