"""The shipped studies train as the papers print it: what they say is worked out by hand here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.built_run import BuiltCLI

from mn_lightning import MixtureNorm
from mn_lightning.callbacks import NormSwapCallback
from mn_lightning.compare.study.load import load_study
from mn_lightning.compare.work import describe
from mn_lightning.configs import study_names
from mn_lightning.models import ImageClassifier

EPOCHS, STEPS = "epoch", "step"


def rates(study: str, variant: str) -> tuple[ImageClassifier, Any, Callable[[int], float]]:
    """Return the model, its optimizer, and the learning rate after so many steps of the scheduler."""
    with torch.device("meta"):
        cli = BuiltCLI(load_study(study), variant)
    assert isinstance(cli.model, ImageClassifier)
    made: Any = cli.model.configure_optimizers()
    scheduler, seen = made["lr_scheduler"]["scheduler"], [made["optimizer"].param_groups[0]["lr"]]

    def after(steps: int) -> float:
        while len(seen) <= steps:
            made["optimizer"].step()
            scheduler.step()
            seen.append(made["optimizer"].param_groups[0]["lr"])
        return float(seen[steps])

    assert made["lr_scheduler"]["interval"] == cli.model.lr_scheduler_interval
    return cli.model, made["optimizer"], after


# Study, variant, what the scheduler counts, and (count, learning rate): the printed policies, worked out by hand.
POLICIES: list[tuple[str, str, str, dict[int, float]]] = [
    # 0.93 every two epochs: once after epochs 0 and 1, 49 times before the last of 100 epochs.
    ("kalayeh_table2_cifar10", "BN-1", EPOCHS, {0: 0.01, 1: 0.01, 2: 0.0093, 4: 0.008649, 99: 0.01 * 0.93**49}),
    ("kalayeh_table2_cifar100", "MN-4", EPOCHS, {0: 0.05, 1: 0.05, 2: 0.0465, 99: 0.05 * 0.93**49}),
    # 0.93 every four epochs.
    ("kalayeh_table4_cifar10", "MN-2", EPOCHS, {0: 0.001, 3: 0.001, 4: 0.00093, 8: 0.0008649, 199: 0.001 * 0.93**49}),
    ("kalayeh_table4_cifar100", "BN-5", EPOCHS, {0: 0.005, 3: 0.005, 4: 0.00465}),
    # Of 150 epochs 50% are 75, 75% are 112.5; 30, 60 and 80% are 45, 90 and 120.
    ("kalayeh_table6", "BN 0.1, 0.5, 0.75", EPOCHS, {0: 0.14, 74: 0.14, 75: 0.014, 111: 0.014, 112: 0.0014}),
    (
        "kalayeh_table6",
        "MN 0.2, 0.3, 0.6, 0.8",
        EPOCHS,
        {0: 0.14, 44: 0.14, 45: 0.028, 89: 0.028, 90: 0.0056, 119: 0.0056, 120: 0.00112, 149: 0.00112},
    ),
    ("kalayeh_densenet", "DenseNet-40 MN", EPOCHS, {0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 299: 0.001}),
    # After 2.5 and 3 million images.
    ("deecke_table1", "MN K=4", STEPS, {0: 0.1, 19531: 0.1, 19532: 0.01, 23437: 0.01, 23438: 0.001}),
    ("deecke_table5", "BN N=256", STEPS, {0: 0.1, 9765: 0.1, 9766: 0.01, 11718: 0.01, 11719: 0.001}),
    ("deecke_table5", "MN K=6 N=512", STEPS, {0: 0.1, 4882: 0.1, 4883: 0.01, 5859: 0.01, 5860: 0.001}),
    ("deecke_table2", "MGN N=8", STEPS, {0: 0.02, 34999: 0.02, 35000: 0.002, 42499: 0.002, 42500: 0.0002}),
    ("deecke_table3_cifar10", "NIN MN", EPOCHS, {0: 0.1, 64: 0.1, 65: 0.01, 79: 0.01, 80: 0.001, 99: 0.001}),
    ("deecke_table3_cifar100", "VGG13 BN", EPOCHS, {0: 0.1, 64: 0.1, 65: 0.01, 80: 0.001, 89: 0.001, 90: 0.0001}),
    ("deecke_table3_cifar10", "ResNet20 MN", EPOCHS, {0: 0.1, 79: 0.1, 80: 0.01, 119: 0.01, 120: 0.001, 159: 0.001}),
    ("deecke_table4", "MN", EPOCHS, {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001}),
    ("fashion_mnist_multitask", "IN", EPOCHS, {0: 0.1, 10: 0.1, 11: 0.01, 12: 0.01, 13: 0.001}),
    ("fashion_mnist", "MN-8", EPOCHS, {0: 0.01, 1: 0.01, 2: 0.0093, 99: 0.01 * 0.93**49}),
]  # fmt: skip


@pytest.mark.parametrize(("study", "variant", "unit", "expected"), POLICIES)
def test_the_learning_rate_is_the_printed_one(study: str, variant: str, unit: str, expected: dict[int, float]) -> None:
    model, _, after = rates(study, variant)
    assert model.lr_scheduler_interval == unit
    assert {count: after(count) for count in expected} == pytest.approx(expected, rel=1e-9)


def test_every_study_of_a_table_has_its_policy_tested() -> None:
    named = {name for name in study_names() if name.startswith(("kalayeh_table", "deecke_table"))}
    assert named <= {study for study, *_ in POLICIES}


# Network, optimizer, its momentum, Nesterov's or not, learning rate, weight decay, images in a batch, epochs, updates.
RECIPES: list[tuple[str, str, tuple[Any, ...]]] = [
    ("kalayeh_table2_cifar10", "BN-1", ("CIFARConvNet", "RMSprop", 0.9, None, 0.01, 1e-4, 256, 100, -1)),
    ("kalayeh_table2_cifar10", "MN-2", ("CIFARConvNet", "RMSprop", 0.9, None, 0.01, 2e-5, 256, 100, -1)),
    ("kalayeh_table2_cifar100", "MN-3", ("CIFARConvNet", "RMSprop", 0.9, None, 0.05, 1e-4, 256, 100, -1)),
    ("kalayeh_table2_cifar100", "BN-4", ("CIFARConvNet", "RMSprop", 0.9, None, 0.05, 2e-5, 256, 100, -1)),
    ("kalayeh_table2_cifar100", "MN-8", ("CIFARConvNet", "RMSprop", 0.9, None, 0.01, 2e-5, 256, 100, -1)),
    ("kalayeh_table4_cifar10", "MN-1", ("InceptionV3", "RMSprop", 0.9, None, 0.001, 5e-4, 128, 200, -1)),
    ("kalayeh_table4_cifar100", "MN-5", ("InceptionV3", "RMSprop", 0.9, None, 0.005, 5e-4, 128, 200, -1)),
    ("kalayeh_table6", "MN 0.1, 0.5, 0.75", ("InceptionV3", "SGD", 0.9, True, 0.14, 5e-4, 256, 150, -1)),
    ("kalayeh_densenet", "DenseNet-100 MN", ("CIFARDenseNet", "SGD", 0.9, True, 0.1, 1e-4, 64, 300, -1)),
    ("deecke_table1", "BN", ("LeNet", "SGD", 0.9, False, 0.1, 1e-4, 128, 15, -1)),
    ("deecke_table5", "LN N=512", ("LeNet", "SGD", 0.9, False, 0.1, 1e-4, 512, 15, -1)),
    ("deecke_table2", "GN N=4", ("LeNet", "SGD", 0.9, False, 0.02, 1e-4, 4, -1, 50_000)),
    ("deecke_table3_cifar10", "NIN BN", ("NetworkInNetwork", "SGD", 0.9, False, 0.1, 1e-4, 128, 100, -1)),
    ("deecke_table3_cifar100", "VGG13 MN", ("VGG13", "SGD", 0.9, False, 0.1, 1e-4, 128, 100, -1)),
    ("deecke_table3_cifar10", "ResNet20 BN", ("ResNet20", "SGD", 0.9, False, 0.1, 1e-4, 128, 160, -1)),
    ("deecke_table4", "BN", ("TorchvisionNetwork", "SGD", 0.9, False, 0.1, 1e-4, 64, 90, -1)),
    ("fashion_mnist_multitask", "BN", ("LeNet", "SGD", 0.9, False, 0.1, 1e-4, 128, 15, -1)),
]


@pytest.mark.parametrize(("study", "variant", "expected"), RECIPES)
def test_the_recipe_is_the_printed_one(study: str, variant: str, expected: tuple[Any, ...]) -> None:
    with torch.device("meta"):
        cli = BuiltCLI(load_study(study), variant)
    made: Any = cli.model.configure_optimizers()
    optimizer, group = made["optimizer"], made["optimizer"].param_groups[0]
    assert (
        type(cli.model.network).__name__,
        type(optimizer).__name__,
        group["momentum"],
        group.get("nesterov"),
        group["lr"],
        group["weight_decay"],
        cli.datamodule.batch_size,
        cli.config.trainer.max_epochs,
        cli.config.trainer.max_steps,
    ) == expected
    augmented = {"CIFAR10": True, "CIFAR100": True, "imagenet": None}.get(describe(cli.datamodule)[0], False)
    assert getattr(cli.datamodule, "augment", None) == augmented


@pytest.mark.parametrize(
    ("study", "seeds"),
    [(name, 5) for name in ("deecke_table1", "deecke_table2", "deecke_table5")]
    + [("deecke_table4", 1), ("fashion_mnist_multitask", 3), ("kalayeh_table6", 3)],
)
def test_seeds(study: str, seeds: int) -> None:
    """Five initializations are printed for the multi-task tables."""
    assert load_study(study).seeds == tuple(range(seeds))


# Study, variant, norm, and number of layers with their settings.
SWAPS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("kalayeh_table2_cifar100", "MN-6", "mixture", {"conv3": (3, 8)}),
    ("kalayeh_table2_cifar100", "MN-8", "mixture", {"conv2": (3, 2), "conv3": (3, 2)}),
    ("kalayeh_table4_cifar10", "MN-1", "mixture", {"red1": (3, 8), "red2": (3, 8)}),
    ("kalayeh_table4_cifar100", "MN-2", "mixture", {"red1": (3, 4), "red2": (3, 4), "inc3/0": (3, 4)}),
    ("kalayeh_table4_cifar10", "MN-3", "mixture", {"inc2/0": (3, 2), "inc3/0": (3, 2)}),
    ("kalayeh_table4_cifar100", "MN-5", "mixture", {"inc2/0": (5, 2), "inc3/0": (5, 2)}),
    ("kalayeh_table6", "MN 0.1, 0.5, 0.75", "mixture", {"inc2/1": (5, 2), "inc3/0": (5, 2)}),
]


@pytest.mark.parametrize(("study", "variant", "norm", "layers"), SWAPS)
def test_the_swapped_layers_are_the_printed_ones(study: str, variant: str, norm: str, layers: dict[str, Any]) -> None:
    swap = load_study(study).variants[variant]["trainer.callbacks+"]["init_args"]
    assert swap["norm"] == norm
    assert {name: (each["n_components"], each["em_iters"]) for name, each in swap["layers"].items()} == layers


@pytest.mark.parametrize(
    ("study", "variant", "count"),
    [
        ("kalayeh_table2_cifar100", "MN-8", 2),
        ("kalayeh_table4_cifar10", "MN-1", 4),
        ("kalayeh_table4_cifar10", "MN-2", 10),
        ("kalayeh_table4_cifar100", "MN-4", 10),
        ("kalayeh_table6", "MN 0.2, 0.3, 0.6, 0.8", 10),
        ("kalayeh_densenet", "DenseNet-40 MN", 2),
        ("kalayeh_densenet", "DenseNet-100 MN", 2),
        ("deecke_table2", "MGN N=4", 2),
        ("deecke_table3_cifar10", "NIN MN", 9),
        ("deecke_table3_cifar10", "VGG13 MN", 10),
        ("deecke_table3_cifar10", "ResNet20 MN", 19),
        ("deecke_table4", "MN", 20),
    ],
)
def test_as_many_norms_are_swapped_as_the_paper_swaps(study: str, variant: str, count: int) -> None:
    """Last norms of 2 + 2 branches of the grid reductions, 4 + 6 of two Inception layers; else all, shortcuts too."""
    cli = BuiltCLI(load_study(study), variant)
    (swap,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, NormSwapCallback)]
    swap.setup(cli.trainer, cli.model, "fit")
    assert sum(hasattr(module, "_swapped_for") for module in cli.model.modules()) == count


@pytest.mark.parametrize("name", [name for name in study_names() if load_study(name).paper == "Kalayeh & Shah 2018"])
def test_the_activation_is_inside_the_sum(name: str) -> None:
    """Eq. 38, in all studies with published numbers; Eq. 39 is a variant that says so."""
    study = load_study(name)
    for variant, overrides in study.variants.items():
        if "trainer.callbacks+" in overrides:
            fused = overrides["trainer.callbacks+"]["init_args"].get("fuse_activation", False)
            assert fused != ("Eq. 39" in variant), variant


@pytest.mark.parametrize(
    ("study", "variant"),
    [("kalayeh_table2_cifar10", "MN-1"), ("kalayeh_table4_cifar10", "MN-4"), ("dcgan_cifar10", "DCGAN-MN")],
)
def test_there_is_an_activation_behind_each_swapped_norm(study: str, variant: str) -> None:
    cli = BuiltCLI(load_study(study), variant)
    (swap,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, NormSwapCallback)]
    swap.setup(cli.trainer, cli.model, "fit")
    layers = [module for module in cli.model.modules() if isinstance(module, MixtureNorm)]
    assert layers
    assert all(callable(layer.activation) for layer in layers)


@pytest.mark.parametrize("study", ["kalayeh_table2_cifar10", "kalayeh_table4_cifar10", "kalayeh_table6"])
def test_the_last_batch_is_left_out(study: str) -> None:
    data = BuiltCLI(load_study(study), next(iter(load_study(study).variants))).datamodule
    assert data.drop_last
