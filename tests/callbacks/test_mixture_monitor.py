"""What is logged, against scikit-learn, SciPy and gates computed by hand; and that it is there in every kind of run."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from sklearn.mixture import GaussianMixture

from mn_lightning import ModeNorm, swap_norms
from mn_lightning.callbacks import GMMRefitCallback, MixtureMonitor, NormSwapCallback
from mn_lightning.callbacks import mixture_monitor as module
from mn_lightning.functional.mixture import fit_mixture
from mn_lightning.kernels.types import FitOptions
from mn_lightning.layers import mixture as layer_module

MIXTURES = ["network.1", "network.5"]
NUMBERS = {
    "components",
    "entropy",
    "smallest_weight",
    "largest_weight",
    "separation",
    "confident",
    "log_likelihood_gain",
    "training_components",
}


class Kept(Logger):
    """Keeps what is logged."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any("/" in name for name in metrics):
            assert step is not None
            self.rows.append((step, metrics))


class Inputs(Callback):
    """Keeps what a layer is given in each training step, and its gates computed from the linear map."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gates: list[torch.Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def hook(layer: ModeNorm, args: tuple[torch.Tensor, ...]) -> None:
            if layer.training:
                self.gates.append(layer.gate(args[0].detach().mean((2, 3))).softmax(1).detach())

        pl_module.get_submodule(self.name).register_forward_pre_hook(hook)


def fit(folder: Path, callbacks: list[Callback], **arguments: Any) -> tuple[LightningModule, Kept]:
    model, logger = classifier(), Kept()
    run = trainer(folder, callbacks, **{"logger": logger, "max_epochs": 2, **arguments})
    run.fit(model, digits())
    return model, logger


def histories(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)["callbacks"]["MixtureMonitor"]["histories"]


@pytest.mark.parametrize("fit_rows", [None, 100])
def test_the_components_that_the_training_used(
    fit_rows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first and the last of an epoch's five batches, under the very mixtures that they were normalized with."""
    counts: list[int] = []
    normalize = layer_module.normalize

    def spy(x: torch.Tensor, mixture: Any, *arguments: Any) -> Any:
        if isinstance(mixture, FitOptions):
            how = mixture
            fitted = fit_mixture(x.detach(), how.n_components, how.em_iters, how.step, fit_rows=how.fit_rows)
            rows = x.detach().double().movedim(1, -1).flatten(0, -2).numpy()
            weights, means, variances = (part.double().numpy() for part in fitted)
            joint = [
                np.log(w) + scipy.stats.multivariate_normal(mean, np.diag(var + 1e-5)).logpdf(rows)
                for w, mean, var in zip(weights, means, variances, strict=True)
            ]
            share = scipy.special.softmax(np.stack(joint), axis=0).mean(1)
            counts.append(int((share >= 0.25).sum()))
        return normalize(x, mixture, *arguments)

    monkeypatch.setattr(layer_module, "normalize", spy)
    callbacks = [MixtureMonitor(), *mixture_callbacks("network.1", n_components=4, min_weight=0.25, fit_rows=fit_rows)]
    _, logger = fit(tmp_path, callbacks, max_epochs=2)
    found = [row["network.1/training_components"] for _, row in logger.rows]
    assert len(counts) == 2 * BATCHES
    assert found == [(counts[first] + counts[first + BATCHES - 1]) / 2 for first in (0, BATCHES)]
    assert min(counts) < 4


@pytest.mark.parametrize("validate", [True, False])
def test_mixtures_against_scikit_learn(tmp_path: Path, validate: bool) -> None:
    model, logger = fit(tmp_path, [MixtureMonitor(), *mixture_callbacks()], limit_val_batches=1.0 if validate else 0)
    assert [step for step, _ in logger.rows] == [BATCHES - 1, 2 * BATCHES - 1]
    _, found = logger.rows[-1]
    assert set(found) == {f"{name}/{number}" for name in MIXTURES for number in NUMBERS} | {"epoch"}
    for name, layer in zip(MIXTURES, mixtures(model), strict=True):
        rows = layer.queue.draw(layer.queue_decay, layer.num_batches_tracked).double().numpy()
        weights, means, variances = (part.double().numpy() for part in layer.mixture)
        used = weights > 0
        theirs = GaussianMixture(int(used.sum()), covariance_type="diag")
        theirs.weights_, theirs.means_ = weights[used], means[used]
        theirs.covariances_ = variances[used] + layer.eps
        theirs.precisions_cholesky_ = theirs.covariances_**-0.5
        one = scipy.stats.multivariate_normal(rows.mean(0), np.diag(rows.var(0) + layer.eps))
        gain = (theirs.score(rows) - one.logpdf(rows).mean()) / rows.shape[1]
        assert found[f"{name}/components"] == used.sum() > 1
        assert found[f"{name}/entropy"] == pytest.approx(scipy.stats.entropy(weights), rel=1e-5)
        assert found[f"{name}/largest_weight"] == pytest.approx(weights.max())
        assert found[f"{name}/smallest_weight"] == pytest.approx(weights[used].min())
        assert found[f"{name}/confident"] == pytest.approx((theirs.predict_proba(rows).max(1) > 0.9).mean(), abs=1e-3)
        assert found[f"{name}/log_likelihood_gain"] == pytest.approx(gain, rel=1e-3)
        assert found[f"{name}/separation"] > 0


def test_the_place_among_the_callbacks_does_not_matter(tmp_path: Path) -> None:
    _, first = fit(tmp_path, [MixtureMonitor(), *mixture_callbacks()], limit_val_batches=0)
    _, last = fit(tmp_path, [*mixture_callbacks(), MixtureMonitor()], limit_val_batches=0)
    assert first.rows == last.rows


def test_the_training_does_not_notice(tmp_path: Path) -> None:
    without, _ = fit(tmp_path, mixture_callbacks())
    watched, _ = fit(tmp_path, [*mixture_callbacks(), MixtureMonitor()])
    for name, value in without.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


@pytest.mark.parametrize(("every", "looked_at"), [(32, [0, 4]), (2, [0, 2, 4]), (3, [0, 3, 4])])
def test_gates_of_some_batches(
    tmp_path: Path, every: int, looked_at: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY_N_BATCHES", every)
    seen = Inputs("network.1")
    _, logger = fit(tmp_path, [MixtureMonitor(), NormSwapCallback(norm="mode", n_components=3), seen])
    for epoch, (_, found) in enumerate(logger.rows):
        gates = torch.cat([seen.gates[epoch * BATCHES + batch] for batch in looked_at]).double()
        for k in range(3):
            assert found[f"network.1/gate_{k}"] == pytest.approx(float(gates[:, k].mean()), rel=1e-5)
            assert found[f"network.1/share_{k}"] == pytest.approx(float((gates.argmax(1) == k).double().mean()))
        assert found["network.1/gate_entropy"] == pytest.approx(scipy.stats.entropy(gates, axis=1).mean(), rel=1e-5)
        assert len(found) == 2 * (2 * 3 + 1) + 1


def test_gates_of_channels(tmp_path: Path) -> None:
    swap = NormSwapCallback("network.1", "mode_group", n_components=2)
    model, logger = fit(tmp_path, [MixtureMonitor(), swap])
    _, found = logger.rows[-1]
    assert found["network.1/gate_0"] + found["network.1/gate_1"] == pytest.approx(1)
    assert not model.network[1]._forward_pre_hooks


@pytest.mark.slow
def test_gates_in_a_compiled_network(tmp_path: Path) -> None:
    callbacks: list[Callback] = [MixtureMonitor(), NormSwapCallback("network.1", "mode")]
    _, plain = fit(tmp_path, callbacks)
    model, logger = classifier(), Kept()
    model.network.compile(backend="eager", fullgraph=True)
    trainer(tmp_path, callbacks, logger=logger).fit(model, digits())
    assert len(logger.rows) == 2
    for name, value in plain.rows[0][1].items():
        assert logger.rows[0][1][name] == pytest.approx(value, abs=1e-2), name


def test_a_network_without_such_layers(tmp_path: Path) -> None:
    _, logger = fit(tmp_path, [MixtureMonitor()])
    assert logger.rows == []


@pytest.mark.parametrize("arguments", [{"fast_dev_run": True}, {"max_steps": 3}, {"val_check_interval": 2}])
def test_other_kinds_of_runs(tmp_path: Path, arguments: dict[str, Any]) -> None:
    monitor = MixtureMonitor()
    fit(tmp_path, [monitor, *mixture_callbacks()], **arguments)
    assert set(monitor.histories) == set(MIXTURES)
    expected = {"fast_dev_run": [1], "max_steps": [3], "val_check_interval": [BATCHES, 2 * BATCHES]}
    assert monitor.histories["network.1"].steps == expected[next(iter(arguments))]


def test_a_checkpoint_can_be_chosen_by_it(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, monitor="network.1/separation", mode="max")
    fit(tmp_path, [saver, *mixture_callbacks(), MixtureMonitor()], enable_checkpointing=True)
    assert saver.best_model_score is not None


@pytest.mark.parametrize("saving", [{}, {"save_on_train_epoch_end": True}])
def test_a_checkpoint_holds_the_epoch_that_it_is_saved_after(tmp_path: Path, saving: dict[str, Any]) -> None:
    monitor = MixtureMonitor()
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, **saving)
    model, _ = fit(tmp_path, [saver, *mixture_callbacks(), monitor], enable_checkpointing=True)
    for epoch in (0, 1):
        found = histories(tmp_path / f"epoch={epoch}.ckpt")
        assert set(found) == set(MIXTURES)
        assert found["network.1"]["steps"].tolist() == [BATCHES, 2 * BATCHES][: epoch + 1]
    last = monitor.histories["network.5"].snapshots[-1]
    assert (last.epoch, last.step) == (2, 2 * BATCHES)
    assert torch.equal(last.mixture.means, model.network[5].mixture_means)


@pytest.mark.parametrize("saving", [{}, {"save_on_train_epoch_end": True}])
def test_a_resumed_run_goes_on_with_the_history(tmp_path: Path, saving: dict[str, Any]) -> None:
    whole = MixtureMonitor()
    fit(tmp_path, [*mixture_callbacks(), whole], max_epochs=3)
    saver = ModelCheckpoint(tmp_path, filename="first", **saving)
    fit(tmp_path, [saver, *mixture_callbacks(), MixtureMonitor()], max_epochs=1, enable_checkpointing=True)
    resumed = MixtureMonitor()
    run = trainer(tmp_path, [*mixture_callbacks(), resumed], max_epochs=3)
    run.fit(classifier(), digits(), ckpt_path=tmp_path / "first.ckpt")
    for name, history in whole.histories.items():
        again = resumed.histories[name]
        assert again.steps == history.steps == [BATCHES, 2 * BATCHES, 3 * BATCHES]
        for number, values in history.values.items():
            assert again.values[number] == pytest.approx(values, rel=1e-4), number


def test_another_trainer_begins_a_new_history(tmp_path: Path) -> None:
    monitor = MixtureMonitor()
    for _ in range(2):
        fit(tmp_path, [*mixture_callbacks(), monitor], max_epochs=1)
        assert monitor.histories["network.1"].steps == [BATCHES]


class Sharpen(Callback):
    """Gives all samples to the first mode."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.network[1].gate.bias.data.copy_(torch.tensor([30.0, -30.0]))


@pytest.mark.parametrize(
    ("callbacks", "name"),
    [
        (lambda: mixture_callbacks("network.5", min_weight=0.6), "network.5"),
        (lambda: [NormSwapCallback("network.1", "mode"), Sharpen()], "network.1"),
    ],
)
def test_a_collapse_is_said_once(tmp_path: Path, callbacks: Any, name: str) -> None:
    with pytest.warns(UserWarning, match="has collapsed") as caught:
        fit(tmp_path, [*callbacks(), MixtureMonitor()], max_epochs=3)
    (said,) = [str(warning.message) for warning in caught if "collapsed" in str(warning.message)]
    assert said.startswith(f"{name} has collapsed: one of its ")
    assert "held 100.0% of the data in epoch 1" in said


def test_no_collapse_is_not_said(tmp_path: Path) -> None:
    """Not of one component on purpose either, nor of gates that are nearly uniform but largest for the same mode."""
    for callbacks in (
        mixture_callbacks(),
        mixture_callbacks(n_components=1),
        [NormSwapCallback(norm="mode")],
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*collapsed")
            fit(tmp_path, [*callbacks, MixtureMonitor()], max_epochs=1)


def test_a_frozen_layer_is_left_out(tmp_path: Path) -> None:
    class Freeze(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.network[1].eval()

    _, logger = fit(tmp_path, [*mixture_callbacks(), Freeze(), MixtureMonitor()])
    assert {name.partition("/")[0] for name in logger.rows[-1][1]} == {"network.5", "epoch"}


def test_without_a_queue_reset_too(tmp_path: Path) -> None:
    class Swap(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            swap_norms(pl_module)  # which brings no callback along

    with pytest.warns(UserWarning, match="no QueueResetCallback"):
        _, logger = fit(tmp_path, [Swap(), GMMRefitCallback(), MixtureMonitor()])
    assert len(logger.rows) == 2
