"""Estimate how much work a run of a study is, from its configuration alone: no data is read, and no weight is made.

``python -m mn_lightning.compare.work`` writes the work of the shipped studies into ``configs/studies/work.json``.
``mn-lightning studies`` reads that file, because making two hundred networks takes a minute even without weights.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mn_lightning.compare.hours import Work
from mn_lightning.compare.study.fit import StudyCLI
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.study.study import Study, variant_label
from mn_lightning.configs import WORK, study_names
from mn_lightning.data import DigitsDataModule, MultiTaskDataModule, TorchvisionDataModule
from mn_lightning.models import DCGAN
from mn_lightning.utils.files import write_atomically

_TRAINING_IMAGES = {"CIFAR10": 50_000, "CIFAR100": 50_000, "MNIST": 60_000, "FashionMNIST": 60_000, "SVHN": 73_257}
_DIGITS = 1_257
# Most variants differ only in these options, which do not change the work that is counted: callbacks swap norms.
_WITHOUT_WORK = ("trainer.callbacks", "model.init_args.optimizer", "model.init_args.lr_scheduler")


def work_of(study: Study) -> dict[str, Work]:
    """Estimate the work of one run of each variant.

    Raises:
        StudyError: a variant does not parse.
    """
    found: dict[str, Work] = {}
    result = {}
    for variant, overrides in study.variants.items():
        key = json.dumps([item for item in overrides.items() if not item[0].startswith(_WITHOUT_WORK)])
        if key not in found:
            found[key] = _work_of(study, variant)
        result[variant] = found[key]
    return result


def _work_of(study: Study, variant: str) -> Work:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the runs will show them again
        arguments = study.arguments(variant, study.seeds[0])
        cli = StudyCLI(variant_label(study, variant), arguments, until="built", save_config_callback=None)
    data, in_an_epoch = describe(cli.datamodule)
    trainer = cli.config.fit.trainer
    batch_size = getattr(cli.datamodule, "batch_size", 1)
    in_an_epoch = study.images or in_an_epoch
    ends = [
        (trainer.max_epochs, in_an_epoch),
        (trainer.max_steps, batch_size),
        (getattr(cli.model, "max_generator_steps", None), batch_size),
    ]
    images = [times * count for times, count in ends if count is not None and times is not None and times >= 0]
    return Work(data, min(images, default=None), macs_of(cli.model, cli.datamodule), batch_size)


def shipped() -> dict[str, dict[str, Work]]:
    """Estimate the work of one run of each variant of each shipped study, by the names of study and variant."""
    return {name: work_of(load_study(name)) for name in study_names()}


def describe(datamodule: LightningDataModule) -> tuple[str, int | None]:
    """Return the name of the data and the number of its training images; None if only its files can tell."""
    if isinstance(datamodule, TorchvisionDataModule):
        return datamodule.dataset, _TRAINING_IMAGES[datamodule.dataset] - datamodule.val_size
    if isinstance(datamodule, DigitsDataModule):
        return "Digits", _DIGITS
    if isinstance(datamodule, MultiTaskDataModule):
        names, numbers = zip(*map(describe, datamodule.datasets), strict=True)
        return " + ".join(names), None if None in numbers else sum(numbers)
    root = getattr(datamodule, "root", None)
    return type(datamodule).__name__.removesuffix("DataModule") if root is None else Path(root).name, None


def macs_of(model: LightningModule, datamodule: Any) -> int:
    """Count the multiply-accumulates of the forward passes that a training step makes for one image.

    Args:
        model: on any device, ``meta`` too.
        datamodule: has ``in_channels`` and ``image_size``.
    """
    image = (datamodule.in_channels, datamodule.image_size, datamodule.image_size)
    if isinstance(model, DCGAN):
        # The discriminator sees the generated batch and the real batch.
        generated = 1 if model.as_published else 2
        discriminated = (generated + 1) * _macs(model.discriminator, image)
        return generated * _macs(model.generator, (model.latent_features,)) + discriminated
    return _macs(model, image)


def _macs(network: nn.Module, shape: tuple[int, ...]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *shape, device=next(network.parameters()).device))
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and an addition as two


if __name__ == "__main__":
    write_atomically(WORK, json.dumps(shipped(), indent=1) + "\n")
