"""No stale mixture is ever evaluated or saved."""

import copy
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from mn_lightning import MixtureNorm, swap_norms
from mn_lightning.callbacks import MixtureMonitor, QueueResetCallback


class Recorder(Callback):
    """Counts evaluated batches by stage, and by whether a mixture was stale."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, bool]] = Counter()

    def _record(self, stage: str, model: LightningModule) -> None:
        self.seen[stage, any(layer.stale for layer in mixtures(model))] += 1

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._record("sanity check" if trainer.sanity_checking else "validation", pl_module)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._record("test", pl_module)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._record("prediction", pl_module)

    def stale(self, stage: str) -> bool:
        assert self.seen[stage, True] + self.seen[stage, False] > 0
        return self.seen[stage, True] > 0


@pytest.mark.parametrize("arguments", [{}, {"val_check_interval": 2}, {"check_val_every_n_epoch": 2}])
def test_no_stale_mixture_is_evaluated(tmp_path: Path, arguments: dict[str, Any]) -> None:
    recorder, model = Recorder(), classifier()
    run = trainer(tmp_path, [*mixture_callbacks(), recorder], **arguments)
    run.fit(model, digits())
    run.validate(model, digits(), verbose=False)
    run.test(model, digits(), verbose=False)
    run.predict(model, digits())
    for stage in ("sanity check", "validation", "test", "prediction"):
        assert not recorder.stale(stage)


def test_without_the_callback_mixtures_are_stale(tmp_path: Path) -> None:
    """What the other tests would see if the callback did nothing."""
    recorder, model = Recorder(), classifier()
    swap_norms(model)
    run = trainer(tmp_path, [QueueResetCallback(), recorder], max_epochs=1)
    with pytest.warns(UserWarning, match="no GMMRefitCallback"):
        run.fit(model, digits())
    run.test(model, digits(), verbose=False)
    assert not recorder.stale("sanity check")
    assert recorder.stale("validation")
    assert recorder.stale("test")


def test_what_was_trained_after_the_last_validation_is_refitted_for_a_test(tmp_path: Path) -> None:
    recorder, model = Recorder(), classifier()
    run = trainer(tmp_path, [*mixture_callbacks(), recorder], max_epochs=1, limit_val_batches=0)
    run.fit(model, digits())
    for layer in mixtures(model):  # a training loop of the user's own
        layer.train()
        layer(torch.randn(10, layer.num_features))
    run.test(model, digits(), verbose=False)
    assert not recorder.stale("test")


def test_the_sanity_check_evaluates_with_the_statistics_of_the_batch_norm(tmp_path: Path) -> None:
    logits: dict[str, torch.Tensor] = {}

    class Grab(Callback):
        def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            logits["sanity"] = pl_module.network.eval()(torch.ones(2, 1, 8, 8)).detach()

    model = classifier()
    expected = model.network.eval()(torch.ones(2, 1, 8, 8)).detach()
    model.train()
    trainer(tmp_path, [*mixture_callbacks(), Grab()], max_epochs=1).fit(model, digits())
    torch.testing.assert_close(logits["sanity"], expected)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"every_n_epochs": 1},
        {"every_n_train_steps": 3},
        {"every_n_train_steps": 3, "save_weights_only": True},
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    ],
)
@pytest.mark.parametrize("validate", [True, False])
def test_no_stale_mixture_is_saved(tmp_path: Path, checkpoint: dict[str, Any], validate: bool) -> None:
    model = classifier()
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **checkpoint)
    run = trainer(
        tmp_path,
        [saver, *mixture_callbacks()],
        enable_checkpointing=True,
        limit_val_batches=1.0 if validate else 0,
    )
    reference = _mixtures_by_step(tmp_path / "reference")
    run.fit(model, digits())
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) == (3 if "every_n_train_steps" in checkpoint else 2)
    for path in saved:
        content = torch.load(path, weights_only=True)
        expected = reference[content["global_step"]]
        found = {name: content["state_dict"][name] for name in expected}
        for name, value in _in_order_of_weights(expected).items():
            torch.testing.assert_close(_in_order_of_weights(found)[name], value)


def _in_order_of_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sort the components of each layer: their order follows the refits before, of which the reference has none."""
    return {name: value[state[f"{name.rpartition('_')[0]}_weights"].argsort()] for name, value in state.items()}


def _mixtures_by_step(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Stored mixtures after every step, refitted by hand on a copy of the model."""
    found: dict[int, dict[str, torch.Tensor]] = {}

    class Grab(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            copied = copy.deepcopy(pl_module.network)
            for layer in mixtures(copied):
                layer.refit()
            found[trainer.global_step] = {
                f"network.{name}": value for name, value in copied.state_dict().items() if "mixture" in name
            }

    trainer(folder, [*mixture_callbacks(), Grab()]).fit(classifier(), digits())
    assert sorted(found) == list(range(1, 2 * BATCHES + 1))
    return found


def test_a_checkpoint_saved_by_hand_holds_the_refitted_mixture(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 2:
                assert any(layer.stale for layer in mixtures(pl_module))
                trainer.save_checkpoint(tmp_path / "by_hand.ckpt")
                assert not any(layer.stale for layer in mixtures(pl_module))

    trainer(tmp_path, [Save(), *mixture_callbacks()], max_epochs=1).fit(classifier(), digits())
    assert (tmp_path / "by_hand.ckpt").exists()


class OwnAverage(Callback):
    """An average of weights as users write it, from a state dict of every step."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}
        self.behind: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        state = pl_module.state_dict()
        self.behind.append(max(layer.queue.behind for layer in mixtures(pl_module)))
        for name, value in state.items():
            if value.is_floating_point():
                self.average.setdefault(name, value.clone()).lerp_(value, 0.1)


@pytest.fixture
def refits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each layer was refitted."""
    count: Counter[str] = Counter()
    refit = MixtureNorm.refit

    def counting(layer: MixtureNorm) -> bool:
        count[layer.label] += 1
        return refit(layer)

    monkeypatch.setattr(MixtureNorm, "refit", counting)
    return count


def test_a_state_dict_of_every_step_does_not_refit_in_every_step(tmp_path: Path, refits: Counter[str]) -> None:
    own = OwnAverage()
    callbacks = [*mixture_callbacks(queue_size=3), own]
    trainer(tmp_path, callbacks, limit_val_batches=0, num_sanity_val_steps=0).fit(classifier(), digits())
    assert own.behind == [1, 2, 0, 1, 2] * 2  # at most one refit for a queue of batches, and one at the epoch's end
    assert set(refits.values()) == {4}


def test_a_checkpoint_among_them_is_fresh(tmp_path: Path, refits: Counter[str]) -> None:
    own = OwnAverage()
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    run = trainer(tmp_path, [own, *mixture_callbacks(), saver], max_epochs=1, enable_checkpointing=True)
    reference = _mixtures_by_step(tmp_path / "reference")
    refits.clear()
    run.fit(classifier(), digits())
    assert set(refits.values()) == {3}  # steps 2 and 4, and the validation
    for path in tmp_path.glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        expected = reference[content["global_step"]]
        found = {name: content["state_dict"][name] for name in expected}
        for name, value in _in_order_of_weights(expected).items():
            torch.testing.assert_close(_in_order_of_weights(found)[name], value)


def test_nothing_stays_on_the_model_after_the_fit(tmp_path: Path) -> None:
    model = classifier()
    hooks: list[int] = []

    class Count(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            hooks.append(len(pl_module._state_dict_pre_hooks))
            assert "lightning_module_state_dict" in vars(trainer.strategy)
            pickle.dumps(copy.deepcopy(pl_module.network))

    run = trainer(tmp_path, [*mixture_callbacks(), Count()], max_epochs=1)
    before = len(model._state_dict_pre_hooks)
    run.fit(model, digits())
    run.fit_loop.max_epochs = 2
    run.fit(model, digits())
    assert hooks == [before + 1, before + 1]
    assert len(model._state_dict_pre_hooks) == before
    assert "lightning_module_state_dict" not in vars(run.strategy)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_fit_leaves_nothing_but_a_fresh_checkpoint(tmp_path: Path, error: type[BaseException]) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            raise error("as a user's code may")

    model = classifier()
    saver = OnExceptionCheckpoint(tmp_path, "error")
    callbacks = [*mixture_callbacks(), MixtureMonitor(), Fail(), saver]
    with pytest.raises((error, SystemExit)):  # Lightning exits on Ctrl-C
        trainer(tmp_path, callbacks, enable_checkpointing=True).fit(model, digits())
    saved = torch.load(tmp_path / "error.ckpt", weights_only=True)["state_dict"]
    model.network[1].refit()  # of what the queue holds, which is the batch that came last
    for name, value in saved.items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not model._state_dict_pre_hooks
    assert not model._load_state_dict_pre_hooks
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.network[1].train()(torch.randn(8, 6, 3, 3))
    model.state_dict()
    assert model.network[1].stale  # nobody refits it unasked


def test_a_failed_fit_can_be_followed_by_another(tmp_path: Path) -> None:
    class Fail(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            raise RuntimeError("as a user's code may")

    model, callbacks = classifier(), mixture_callbacks()
    with pytest.raises(RuntimeError, match="as a user's"):
        trainer(tmp_path, [*callbacks, Fail()]).fit(model, digits())
    trainer(tmp_path, callbacks, max_epochs=1).fit(model, digits())
    assert not any(layer.stale for layer in mixtures(model))
    assert len(model._state_dict_pre_hooks) == 0
