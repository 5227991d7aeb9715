"""Wrote the files beside it, with mn_lightning 0.1.0 at commit f005c22; it is kept for the record.

``python tests/files/version_0_1/write.py`` with the repository's root in PYTHONPATH. What it computes it writes as
JSON: later versions have to compute the same from these files. Do not run it with a later version.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import old_parts as parts
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mn_lightning import refit_mixtures, swap_norms
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.models import DCGAN, ImageClassifier

HERE = Path(__file__).parent


def without_folder(value: Any, folder: Path) -> Any:
    """Values of a checkpoint with paths that start at ``folder``, where Lightning has absolute ones."""
    if isinstance(value, dict) and not isinstance(value, OrderedDict):
        return {without_folder(key, folder): without_folder(entry, folder) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_folder(entry, folder) for entry in value]
    return value.replace(f"{folder}/", "") if isinstance(value, str) else value


def copy_checkpoint(path: Path, target: Path, folder: Path) -> None:
    torch.save(without_folder(torch.load(path, weights_only=True), folder), target)


def write_json(name: str, values: dict[str, Any]) -> None:
    (HERE / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")


def floats(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in sorted(metrics.items())}


def write_classifier(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    callbacks = [*parts.classifier_callbacks(name), parts.Interruption()]
    saver = ModelCheckpoint(folder / name, "{step}", every_n_train_steps=parts.STOP)
    try:
        parts.trainer(folder, callbacks, saver, max_epochs=parts.EPOCHS).fit(parts.classifier(), parts.digits())
    except InterruptedError:
        copy_checkpoint(folder / name / f"step={parts.STOP}.ckpt", HERE / f"{name}.ckpt", folder)
    loaded = load_from_checkpoint(ImageClassifier, HERE / f"{name}.ckpt", network=parts.Network(), weights_only=True)
    x = parts.numbers(4, 1, 8, 8)
    values: dict[str, Any] = {"outputs": parts.evaluated(loaded, x)}

    model = parts.classifier()
    saver = ModelCheckpoint(folder / f"{name} resumed", "{step}", every_n_train_steps=parts.STOP)
    resumed = parts.trainer(
        folder, parts.classifier_callbacks(name), saver, max_epochs=parts.EPOCHS, precision="64-true"
    )
    resumed.fit(model, parts.digits(), ckpt_path=HERE / f"{name}.ckpt")
    values["metrics after resumed training"] = floats(resumed.callback_metrics)
    values["outputs after resumed training"] = parts.evaluated(model, x)
    write_json(name, values)


def write_state_dict() -> None:
    torch.manual_seed(0)
    model = parts.small_network()
    swap_norms(model, "first", "mixture", fuse_activation=True, n_components=2, affine="component")
    swap_norms(model, "last", "mode", n_components=3)
    for batch in parts.numbers(4, 50, 3).float():
        model(batch)
    refit_mixtures(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * parts.numbers(*parameter.shape))  # or the gates would be alike
    torch.save(model.state_dict(), HERE / "state_dict.pt")
    write_json("state_dict", {"outputs": parts.evaluated(model, parts.numbers(4, 3))})


def write_gan(folder: Path) -> None:
    torch.manual_seed(0)
    cache = HERE / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    saver = ModelCheckpoint(folder / "gan", "gan")
    run = parts.trainer(folder, parts.gan_callbacks(cache, parts.Quarters()), saver, max_epochs=parts.GAN_EPOCHS)
    run.fit(parts.gan(), parts.gan_loader())
    copy_checkpoint(folder / "gan" / "gan.ckpt", HERE / "gan.ckpt", folder)
    sizes = {"channels": 1, "image_size": 32, "latent_features": 1, "base_channels": 1}
    loaded = load_from_checkpoint(DCGAN, HERE / "gan.ckpt", weights_only=True, **sizes)
    latents = parts.numbers(2, 1)
    values: dict[str, Any] = {"generator_steps": loaded.generator_steps}
    values["pixels"] = [image[::61] for image in parts.evaluated(loaded, latents)]

    extractor = parts.Quarters()
    callbacks = parts.gan_callbacks(cache, extractor)
    saver = ModelCheckpoint(folder / "gan resumed", "gan")
    resumed = parts.trainer(folder, callbacks, saver, max_epochs=parts.GAN_EPOCHS + 1, precision="64-true")
    resumed.fit(parts.gan(), parts.gan_loader(), ckpt_path=HERE / "gan.ckpt")
    values["metrics after resumed training"] = floats(resumed.callback_metrics)
    values["images seen by the extractor"] = extractor.seen
    write_json("gan", values)


def compare(folder: Path, **environment: str) -> int:
    command = [sys.executable, "-m", "mn_lightning", "compare", "old_study.yaml"]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environment}).returncode


def write_study(folder: Path) -> None:
    folder = folder / "study"
    folder.mkdir()
    shutil.copy(HERE / "study" / "old_study.yaml", folder)
    shutil.copy(HERE / "old_parts.py", folder)
    assert compare(folder) == 130
    (folder / "old_parts.py").unlink()
    runs = folder / "studies" / "old_study" / "runs"
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    # Weights that the rest of the study does not need would be the larger part of the folder.
    shutil.rmtree(runs / "BatchNorm" / "seed-0" / "checkpoints")
    (runs / "MixtureNorm" / "seed-0" / "checkpoints" / "best.ckpt").unlink()
    last = runs / "MixtureNorm" / "seed-0" / "checkpoints" / "last.ckpt"
    copy_checkpoint(last, last, folder)
    shutil.rmtree(HERE / "study")
    shutil.copytree(folder, HERE / "study")

    shutil.copy(HERE / "old_parts.py", folder)
    assert compare(folder, INTERRUPTED_BEFORE="1") == 0
    rows = {}
    for variant in ("BatchNorm", "MixtureNorm", "ModeNorm"):
        with (runs / variant / "seed-0" / "metrics.csv").open(newline="") as file:
            columns = ("epoch", "step", "train_loss", "val_loss", "val_acc")
            rows[variant] = [{name: float(row[name]) for name in columns} for row in csv.DictReader(file)]
    write_json("study", rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        for name in parts.SWAPS:
            write_classifier(name, folder)
        write_state_dict()
        write_gan(folder)
        write_study(folder)


if __name__ == "__main__":
    main()
