"""What Lightning users turn on works with swapped layers."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, trainer, weights_of
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.tuner import Tuner
from torch import nn

from mn_lightning.callbacks import NormSwapCallback
from mn_lightning.models import ImageClassifier
from mn_lightning.swap import refit_mixtures, reset_queues

NORMS = ["mixture", "mode", "mode_group"]


def callbacks(norm: str) -> list[Callback]:
    return [NormSwapCallback("all", norm), *mixture_callbacks()[1:]]


class Finite(Callback):
    """Every parameter has a finite gradient, and no buffer is lost."""

    def __init__(self) -> None:
        self.steps = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.steps += 1
        for name, parameter in pl_module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        for name, value in pl_module.named_buffers():
            assert value.isfinite().all(), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"accumulate_grad_batches": 2}, 3),
        ({"gradient_clip_val": 0.1}, BATCHES),
        ({"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, BATCHES),
        ({"overfit_batches": 2}, 2),
        ({"fast_dev_run": True}, 1),
        ({"fast_dev_run": 3}, 3),
        ({"limit_train_batches": 0.5, "limit_val_batches": 1}, 2),
        ({"val_check_interval": 0.4}, BATCHES),
        ({"max_steps": 4}, 4),
        ({"num_sanity_val_steps": 0, "limit_val_batches": 0}, BATCHES),
        ({"reload_dataloaders_every_n_epochs": 1, "max_epochs": 2}, 2 * BATCHES),
        ({"precision": "bf16-mixed"}, BATCHES),
        ({"precision": "bf16-true"}, BATCHES),
        ({"precision": "64-true"}, BATCHES),
        ({"detect_anomaly": True}, BATCHES),
    ],
    ids=str,
)
def test_a_fit_with(norm: str, arguments: dict[str, Any], steps: int, tmp_path: Path) -> None:
    finite, model = Finite(), classifier()
    run = trainer(tmp_path, [*callbacks(norm), finite], **{"max_epochs": 1, **arguments})
    run.fit(model, digits())
    assert finite.steps == steps
    (metrics,) = trainer(tmp_path, [], precision=arguments.get("precision")).validate(model, digits(), verbose=False)
    assert math.isfinite(metrics["val_loss"])
    for layer in mixtures(model):
        assert not layer.stale
        assert float(layer.mixture_weights.sum()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_before_any_fit_is_the_batch_norms(norm: str, tmp_path: Path) -> None:
    swapped, plain = (
        trainer(tmp_path, chosen).validate(classifier(), digits(), verbose=False)[0]["val_loss"]
        for chosen in (callbacks(norm), [])
    )
    assert (swapped == pytest.approx(plain, rel=1e-5)) == (norm != "mode_group")  # which has no running statistics


@pytest.mark.parametrize("norm", NORMS)
def test_the_best_checkpoint_is_tested(norm: str, tmp_path: Path) -> None:
    model = classifier()
    saver = ModelCheckpoint(tmp_path, monitor="val_loss", mode="max", save_top_k=1)  # the best is not the last
    run = trainer(tmp_path, [*callbacks(norm), saver], enable_checkpointing=True, max_epochs=4)
    run.fit(model, digits())
    (last,) = run.test(model, digits(), verbose=False)
    (best,) = run.test(model, digits(), ckpt_path="best", verbose=False)
    assert best["test_loss"] > last["test_loss"]
    saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    for name, value in weights_of(model).items():
        assert torch.equal(value, saved[f"network.{name}"]), name
    (again,) = run.validate(model, digits(), verbose=False)
    assert again["val_loss"] == pytest.approx(float(saver.best_model_score), rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_part_of_the_data_is_evaluated(norm: str, tmp_path: Path) -> None:
    model = classifier()
    run = trainer(tmp_path, callbacks(norm), max_epochs=1, limit_test_batches=1, limit_predict_batches=0.5)
    run.fit(model, digits())
    run.test(model, digits(), verbose=False)
    assert run.num_test_batches == [1]
    (predicted,) = run.predict(model, digits())  # of two batches
    assert predicted.isfinite().all()


# --- averages of weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_stochastic_weight_averaging_refreshes_the_statistics(norm: str, tmp_path: Path) -> None:
    model = classifier()
    swa = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=3, annealing_epochs=1)
    run = trainer(tmp_path, [*callbacks(norm), swa], max_epochs=6)
    run.fit(model, digits())
    # Statistics that were those of other weights would leave the network no better than guessing.
    (metrics,) = run.validate(model, digits(), verbose=False)
    assert metrics["val_acc"] > 0.5
    for layer in mixtures(model):
        assert not layer.stale


@pytest.mark.parametrize("norm", NORMS)
def test_an_exponential_average_of_the_weights(norm: str, tmp_path: Path) -> None:
    model = classifier()
    average = EMAWeightAveraging(decay=0.5)
    run = trainer(tmp_path, [*callbacks(norm), average], max_epochs=6)
    run.fit(model, digits())
    (metrics,) = run.validate(model, digits(), verbose=False)
    assert metrics["val_acc"] > 0.5


@pytest.mark.parametrize("norm", NORMS)
def test_an_average_over_the_whole_training(norm: str, tmp_path: Path) -> None:
    """Its activations are not those that the mixtures were fitted to; the README says what to do."""
    model, data = classifier(), digits()
    run = trainer(tmp_path, [*callbacks(norm), WeightAveraging()], max_epochs=6)
    run.fit(model, data)
    reset_queues(model)
    model.train()
    with torch.no_grad():
        for images, _ in data.train_dataloader():
            model(images)
    refit_mixtures(model)
    (metrics,) = run.validate(model, data, verbose=False)
    assert metrics["val_acc"] > 0.5


class Mixtures(Callback):
    """Keeps the mixtures that each validation uses."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert not any(layer.stale for layer in mixtures(pl_module))
        self.seen.append([value.clone() for layer in mixtures(pl_module) for value in layer.mixture])


@pytest.mark.parametrize("arguments", [{"val_check_interval": 2}, {"max_steps": 7}], ids=str)
@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_average_model_has_the_mixtures_of_the_current_one(
    use_buffers: bool, arguments: dict[str, Any], tmp_path: Path
) -> None:
    """They are those of a fit without an average, which trains the same weights."""
    seen, weights = [], []
    for average in ([], [EMAWeightAveraging(decay=0.9, use_buffers=use_buffers)]):
        model, watch = classifier(), Mixtures()
        saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, enable_version_counter=False)
        run = trainer(tmp_path, [*mixture_callbacks(), watch, *average, saver], enable_checkpointing=True, **arguments)
        run.fit(model, digits())
        run.validate(model, digits(), verbose=False)
        saved = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
        seen.append([*watch.seen, [value for name, value in saved.items() if "mixture_" in name]])
        weights.append(weights_of(model)["0.weight"])
    assert len(seen[0]) == len(seen[1]) > 3
    for plain, averaged in zip(*seen, strict=True):
        for expected, found in zip(plain, averaged, strict=True):
            assert torch.equal(found, expected)
    assert not torch.equal(*weights)


def test_an_average_of_the_model_before_the_swap_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, [EMAWeightAveraging(), *mixture_callbacks()])
    with pytest.raises(
        ValueError, match=r"^EMAWeightAveraging stands before NormSwapCallback.*put it after NormSwapCallback$"
    ):
        run.fit(classifier(), digits())


# --- the tuner ----------------------------------------------------------------------------------------------------


class WithRate(ImageClassifier):
    lr = 0.01

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("finder", ["batch size", "learning rate"])
def test_the_tuner_leaves_nothing_behind(finder: str, norm: str, tmp_path: Path) -> None:
    tuned, fresh = WithRate(classifier().network), WithRate(classifier().network)
    batches: list[int] = []
    hook = tuned.network[0].register_forward_hook(lambda *_: batches.append(1))
    run = trainer(tmp_path, callbacks(norm), max_epochs=10, enable_checkpointing=True)
    data = digits()
    torch.manual_seed(1)  # of the gates
    if finder == "batch size":
        Tuner(run).scale_batch_size(tuned, datamodule=data, max_trials=1, init_val=64, steps_per_trial=2)
        assert data.batch_size == 64
    else:
        Tuner(run).lr_find(tuned, datamodule=data, num_training=20)
        assert tuned.lr != 0.01
    assert len(batches) > 1  # it has trained
    hook.remove()
    torch.manual_seed(1)
    swap = callbacks(norm)[0]
    swap.setup(trainer(tmp_path, [swap, *callbacks(norm)[1:]]), fresh, "fit")
    for name, value in weights_of(fresh).items():
        assert torch.equal(weights_of(tuned)[name], value), name
    for layer in mixtures(tuned):
        assert layer.queue.counts.sum() == layer.queue.pushes == 0
        assert not layer.stale


# --- copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("norm", NORMS)
def test_a_copy_trains_on_its_own(norm: str, copier: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    model = classifier()
    trainer(tmp_path, callbacks(norm), max_epochs=1).fit(model, digits())
    copied = ImageClassifier(copier(model.network))
    before = weights_of(model)
    for name, value in weights_of(copied).items():
        assert torch.equal(value, before[name])
    trainer(tmp_path, callbacks(norm), max_epochs=1).fit(copied, digits())
    for name, value in weights_of(model).items():
        assert torch.equal(value, before[name])
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(copied).items())


def test_two_models_in_one_process_do_not_touch(tmp_path: Path) -> None:
    alone = classifier()
    trainer(tmp_path, mixture_callbacks(), max_epochs=1).fit(alone, digits())
    first, second = classifier(), classifier()
    run = trainer(tmp_path, mixture_callbacks(), max_epochs=1)
    trainer(tmp_path, callbacks("mode"), max_epochs=1).fit(second, digits())
    run.fit(first, digits())
    for name, value in weights_of(alone).items():
        assert torch.equal(weights_of(first)[name], value)
