"""FIDCallback in a Trainer: when it measures, what comes out, and what it leaves behind."""

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from helpers.states import in_one_order
from helpers.tiny import trainer
from helpers.tiny_generator import REAL, Features, Generator, TwoOptimizers, fid, loader, real_bytes
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mn_lightning import MixtureNorm
from mn_lightning.callbacks import FIDCallback
from mn_lightning.callbacks.fid import FAST_DEV_RUN_SAMPLES
from mn_lightning.fid.evaluation import Evaluation
from mn_lightning.fid.feature_sums import inception_score, kernel_distance

NAME = "fd_features"
STEPS = REAL // 8  # batches in an epoch


class Watch(Callback):
    """Remembers the metrics after every batch, and at the end."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen[trainer.global_step] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def distances(self) -> dict[int, float]:
        return {step: values[NAME] for step, values in self.seen.items() if NAME in values}


class Count(Features):
    """Counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        self.name = "features"

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().forward(images)


def generated(callback: FIDCallback, model: Generator, train: bool = False) -> Tensor:
    """What the callback generates, written out: uint8 images."""
    model = model.train() if train else model.eval()
    blocks = []
    for start in range(0, callback.num_samples, callback.batch_size):
        value = int(np.random.SeedSequence((callback.seed, len(blocks))).generate_state(1)[0])
        torch.manual_seed(value)
        with torch.no_grad():
            blocks.append(model.sample(min(callback.batch_size, callback.num_samples - start)))
    return ((torch.cat(blocks) + 1) * 127.5).round().byte()


def by_hand(real: Tensor, fake: Tensor) -> float:
    (m1, c1), (m2, c2) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (Features()(y).double().numpy() for y in (real, fake))
    )
    return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real))


def run(folder: Path, *callbacks: Callback, model: Generator | None = None, **arguments: Any) -> tuple[Any, Any]:
    model = model or Generator()
    torch.manual_seed(3)
    fit = trainer(folder, list(callbacks), **arguments)
    fit.fit(model, loader())
    return fit, model


@pytest.mark.parametrize("num_samples", [50, 48, 7])
def test_value_is_the_distance_of_the_final_model(tmp_path: Path, num_samples: int) -> None:
    callback = fid(tmp_path, num_samples=num_samples)
    fit, model = run(tmp_path, callback)
    fake = generated(callback, model)
    assert len(fake) == num_samples
    value = float(fit.callback_metrics[NAME])
    assert value == pytest.approx(by_hand(real_bytes(), fake), rel=1e-5)
    assert value == pytest.approx(callback.best, rel=1e-6) or value > callback.best


def test_same_as_torch_fidelity_with_a_registered_extractor(tmp_path: Path) -> None:
    callback = fid(tmp_path, feature_extractor="tiny-features")
    fit, model = run(tmp_path, callback)

    class Rgb(Dataset[Tensor]):
        def __init__(self, images: Tensor) -> None:
            self.images = images.expand(-1, 3, -1, -1)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Tensor:
            return self.images[index]

    theirs = torch_fidelity.calculate_metrics(
        input1=Rgb(real_bytes()),
        input2=Rgb(generated(callback, model)),
        feature_extractor="tiny-features",
        feature_layer_fid="six",
        fid=True,
        cuda=False,
        verbose=False,
        save_cpu_ram=True,
    )["frechet_inception_distance"]
    assert float(fit.callback_metrics["fd_tiny-features"]) == pytest.approx(theirs, rel=1e-3)


def test_train_mode_generates_in_training_mode_each_block_from_the_same_buffers(tmp_path: Path) -> None:
    callback = fid(tmp_path, train_mode=True)
    fit, model = run(tmp_path, callback)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fake = generated(callback, model, train=True)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # In training mode BatchNorm's output does not depend on what it has counted.
    assert float(fit.callback_metrics[NAME]) == pytest.approx(by_hand(real_bytes(), fake), rel=1e-5)
    assert by_hand(real_bytes(), generated(callback, model)) != pytest.approx(by_hand(real_bytes(), fake), rel=1e-3)


def test_in_training_mode_a_block_does_not_depend_on_the_blocks_before(tmp_path: Path) -> None:
    """Which of them a process has generated depends on the number of processes."""

    class Counts(Generator):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def sample(self, n: int) -> Tensor:
            if not torch.is_grad_enabled():
                self.calls += 1
                return super().sample(n) / self.calls
            return super().sample(n)

    callback = fid(tmp_path, train_mode=True)
    fit, model = run(tmp_path, callback, model=Counts())
    assert model.calls == 0
    plain = Generator()
    plain.load_state_dict(model.state_dict(), strict=False)
    fake = generated(callback, plain, train=True)
    assert float(fit.callback_metrics[NAME]) == pytest.approx(by_hand(real_bytes(), fake), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"every_n_steps": 2}, [2, 4, 6, 8, 9]),
        ({"every_n_steps": 4}, [4, 8, 9]),
        ({"every_n_steps": 3}, [3, 6, 9]),
        ({"every_n_epochs": 2}, [6, 9]),
        ({}, [3, 6, 9]),
        ({"every_n_steps": 5, "every_n_epochs": 2}, [5, 6, 9]),
        ({"every_n_steps": 1000}, [9]),
    ],
)
def test_when_it_measures(
    tmp_path: Path, schedule: dict[str, int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    measure = Evaluation.measure

    def spy(self: Evaluation, module: LightningModule, *args: Any) -> dict[str, float]:
        steps.append(module.trainer.global_step)
        return measure(self, module, *args)

    monkeypatch.setattr(Evaluation, "measure", spy)
    run(tmp_path, fid(tmp_path, **schedule), max_epochs=3)
    assert steps == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_epochs": -1, "max_steps": 7}, [7]),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, [2, 4]),
        ({"max_epochs": 2, "limit_train_batches": 1}, [2]),
    ],
)
def test_other_ends_and_accumulation(tmp_path: Path, arguments: dict[str, Any], expected: list[int]) -> None:
    logger = CSVLogger(tmp_path)
    run(tmp_path, fid(tmp_path, every_n_steps=2 if expected != [7] else 100), logger=logger, **arguments)
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    assert np.isfinite(np.atleast_1d(rows[NAME])).sum() == len(expected)


@pytest.mark.parametrize(("stop_at", "expected"), [(None, [2, 4, 6]), (5, [2, 4, 5])])
def test_generator_steps_are_what_counts(tmp_path: Path, stop_at: int | None, expected: list[int]) -> None:
    counted: list[float] = []

    class Best(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            counted.append(float(trainer.callback_metrics[f"{NAME}/steps_to_best"]))

    callback = fid(tmp_path, every_n_steps=2)
    logger = CSVLogger(tmp_path)
    run(tmp_path, callback, Best(), model=TwoOptimizers(stop_at), logger=logger, max_epochs=2)
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    distances = rows[NAME][np.isfinite(rows[NAME])]
    assert len(distances) == len(expected)
    assert callback.steps_to_best == expected[int(np.argmin(distances))]
    assert counted == [callback.steps_to_best]
    assert callback.best == pytest.approx(distances.min())


@pytest.mark.parametrize("train_mode", [False, True])
def test_training_does_not_notice(tmp_path: Path, train_mode: bool) -> None:
    """Weights, buffers, optimizer, random states and modes after training with and without the callback."""

    class States(Callback):
        def __init__(self) -> None:
            self.states: list[Any] = []

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.states = [torch.get_rng_state(), np.random.get_state()[1], random.getstate()[1]]
            self.modes = {name: module.training for name, module in pl_module.named_modules()}

    finals, watchers = [], [States(), States()]
    for watcher, callbacks in zip(
        watchers, [[], [fid(tmp_path, every_n_steps=1, train_mode=train_mode, metrics=["fid", "kid"])]], strict=True
    ):
        np.random.seed(5)
        random.seed(5)
        _, model = run(tmp_path, *callbacks, watcher)
        finals.append(model.state_dict())
    for name, value in finals[0].items():
        assert torch.equal(value, finals[1][name]), name
    for one, other in zip(watchers[0].states, watchers[1].states, strict=True):
        assert np.array_equal(one, other)
    assert watchers[0].modes == watchers[1].modes
    assert watchers[1].modes["frozen"] is False
    assert watchers[1].modes["network"] is True


def test_stale_mixtures_are_refitted_and_queues_put_back(tmp_path: Path) -> None:
    class Mixed(Generator):
        def __init__(self) -> None:
            super().__init__()
            self.network[1] = MixtureNorm(16, n_components=2, queue_rows_per_batch=None)
            self.stale: list[bool] = []

        def sample(self, n: int) -> Tensor:
            if self.trainer.global_step and not torch.is_grad_enabled():
                self.stale.append(self.network[1].stale)
            return super().sample(n)

    for train_mode in (False, True):
        model, plain = Mixed(), Mixed()
        run(tmp_path, fid(tmp_path, every_n_steps=2, train_mode=train_mode), model=model)
        run(tmp_path, model=plain)
        assert model.stale[0] is False
        assert torch.equal(model.network[1].queue.rows, plain.network[1].queue.rows)
        assert torch.equal(model.network[1].num_batches_tracked, plain.network[1].num_batches_tracked)
        plain.network[1].refit()
        ours, expected = (in_one_order(one.network.state_dict())["1.mixture_means"] for one in (model, plain))
        torch.testing.assert_close(ours, expected)


def test_checkpoint_and_early_stopping_see_it_at_step_intervals(tmp_path: Path) -> None:
    watch = Watch()
    saver = ModelCheckpoint(tmp_path, "{step}", monitor=NAME, mode="min", every_n_train_steps=1, save_top_k=1)
    stopper = EarlyStopping(NAME, mode="min", patience=100)
    callback = fid(tmp_path, every_n_steps=1)
    fit, _ = run(tmp_path, callback, watch, saver, stopper, enable_checkpointing=True, max_epochs=3)
    distances = watch.distances()
    assert sorted(distances) == list(range(1, 10))
    best = min(distances, key=lambda step: distances[step])
    assert saver.best_model_path.endswith(f"step={best}.ckpt")
    assert float(saver.best_model_score) == pytest.approx(distances[best])
    assert (callback.best, callback.steps_to_best) == (pytest.approx(distances[best]), best)
    assert float(stopper.best_score) == pytest.approx(min(distances[step] for step in (3, 6, 9)))
    assert float(fit.callback_metrics[f"{NAME}/best"]) == pytest.approx(distances[best])


def test_checkpoints_of_a_model_with_manual_optimization(tmp_path: Path) -> None:
    """Lightning's ``every_n_train_steps`` counts the steps of both optimizers."""
    saver = ModelCheckpoint(tmp_path, "{step}", monitor=NAME, mode="min", every_n_train_steps=4, save_top_k=-1)
    callback = fid(tmp_path, every_n_steps=2)
    run(tmp_path, callback, saver, model=TwoOptimizers(), enable_checkpointing=True)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=12.ckpt", "step=4.ckpt", "step=8.ckpt"]
    assert saver.best_model_path.endswith(f"step={2 * callback.steps_to_best}.ckpt")
    assert float(saver.best_model_score) == pytest.approx(callback.best)


def test_early_stopping_stops(tmp_path: Path) -> None:
    callback = fid(tmp_path)
    fit, _ = run(tmp_path, callback, EarlyStopping(NAME, mode="min", patience=1, min_delta=1e9), max_epochs=20)
    assert fit.current_epoch == 2


def test_a_value_is_logged_once(tmp_path: Path) -> None:
    logger, watch = CSVLogger(tmp_path), Watch()
    run(tmp_path, fid(tmp_path, every_n_steps=2, log_floor=True), watch, logger=logger, log_every_n_steps=1)
    run(tmp_path, fid(tmp_path), logger=(epochs := CSVLogger(tmp_path)))
    rows = np.genfromtxt(Path(epochs.log_dir) / "metrics.csv", delimiter=",", names=True)
    assert rows["step"][np.isfinite(rows[NAME])].tolist() == [2, 5]
    rows = np.genfromtxt(Path(logger.log_dir) / "metrics.csv", delimiter=",", names=True)
    logged = rows[np.isfinite(rows[NAME])]
    assert logged["step"].tolist() == [1, 3, 5]  # Lightning's loggers count from 0
    assert logged[NAME].tolist() == pytest.approx([watch.distances()[step] for step in (2, 4, 6)], rel=1e-5)
    floors = rows[f"{NAME}floor"]
    assert np.isfinite(floors).sum() == 1
    assert rows["step"][np.isfinite(floors)].tolist() == [0]


def test_floor_is_the_distance_of_two_halves(tmp_path: Path) -> None:
    fit, _ = run(tmp_path, fid(tmp_path, log_floor=True))
    first = np.random.default_rng(0).permutation(REAL) < REAL // 2
    assert first.sum() == 15
    expected = by_hand(real_bytes()[first], real_bytes()[~first])
    assert float(fit.callback_metrics[f"{NAME}/floor"]) == pytest.approx(expected, rel=1e-5)


def test_best_survives_a_resume(tmp_path: Path) -> None:
    whole = fid(tmp_path, every_n_steps=2)
    run(tmp_path, whole, max_epochs=2)
    first = fid(tmp_path, every_n_steps=2)
    first_run, _ = run(tmp_path, first, max_epochs=1)
    first.best, first.steps_to_best = 1e-9, 2
    first_run.save_checkpoint(tmp_path / "half.ckpt")
    second = fid(tmp_path, every_n_steps=2)
    resumed = trainer(tmp_path, [second], max_epochs=2)
    resumed.fit(Generator(), loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert (second.best, second.steps_to_best) == (1e-9, 2)
    assert float(resumed.callback_metrics[f"{NAME}/steps_to_best"]) == 2


def test_two_extractors_in_one_trainer_keep_their_own_best(tmp_path: Path) -> None:
    one, other = fid(tmp_path), fid(tmp_path, feature_extractor="tiny-features")
    fit, _ = run(tmp_path, one, other)
    fit.save_checkpoint(tmp_path / "both.ckpt")
    states = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert sum("FIDCallback" in key for key in states) == 2


def test_a_checkpoint_hardly_grows(tmp_path: Path) -> None:
    class Large(Features):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(64, 512)

        def forward(self, images: Tensor) -> Tensor:
            return self.more(images.float().flatten(1))

    with pytest.warns(UserWarning, match="biased"):
        fit, _ = run(tmp_path, fid(tmp_path, feature_extractor=Large(), metrics=["fid", "kid"]))
    fit.save_checkpoint(tmp_path / "with.ckpt")
    keys = set(torch.load(tmp_path / "with.ckpt", weights_only=True)["state_dict"])
    plain, _ = run(tmp_path)
    plain.save_checkpoint(tmp_path / "without.ckpt")
    assert (tmp_path / "with.ckpt").stat().st_size - (tmp_path / "without.ckpt").stat().st_size < 10_000
    assert keys == set(Generator().state_dict())
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) > 2_000_000


def test_real_images_are_extracted_once_and_found_again(tmp_path: Path) -> None:
    counts = []
    for _ in range(2):
        extractor = Count()
        fit, _ = run(tmp_path, fid(tmp_path, feature_extractor=extractor), max_epochs=1)
        counts.append((extractor.images, float(fit.callback_metrics[NAME])))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    # The fingerprint's four, the real ones with the first once more, to know the number of features, and the generated.
    assert counts[0][0] == 4 + 1 + REAL + 50
    assert counts[1] == (4 + 50, counts[0][1])


@pytest.mark.parametrize("change", ["data", "order", "weights", "metrics"])
def test_the_cache_knows_what_it_holds(tmp_path: Path, change: str) -> None:
    run(tmp_path, fid(tmp_path), max_epochs=1)
    images, arguments = real_bytes(), {}
    if change == "data":
        images[3, 0, 2, 2] += 1
    elif change == "order":
        images = images.flip(0)
    elif change == "weights":
        arguments = {"feature_extractor": Features(seed=1)}
    else:
        arguments = {"metrics": ["fid", "kid"]}
    trainer(tmp_path, [fid(tmp_path, **arguments)], max_epochs=1).fit(Generator(), loader(images))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_fast_dev_run_is_tiny_and_writes_nothing(tmp_path: Path) -> None:
    extractor = Count()
    fit, _ = run(tmp_path, fid(tmp_path, feature_extractor=extractor), fast_dev_run=True)
    assert extractor.images <= 2 * FAST_DEV_RUN_SAMPLES + 1
    assert np.isfinite(float(fit.callback_metrics[NAME]))
    assert not (tmp_path / "cache").exists()


def test_kid_and_inception_score(tmp_path: Path) -> None:
    callback = fid(tmp_path, metrics=["fid", "kid"])
    fit, model = run(tmp_path, callback)
    torch.manual_seed(int(np.random.SeedSequence((0, 0)).generate_state(1)[0]))
    fake = generated(callback, model)
    torch.manual_seed(int(np.random.SeedSequence((0, 0)).generate_state(1)[0]))
    mean, deviation = kernel_distance(Features()(real_bytes()), Features()(fake))
    assert float(fit.callback_metrics["kd_features"]) == pytest.approx(mean, rel=1e-4)
    assert float(fit.callback_metrics["kd_features/std"]) == pytest.approx(deviation, rel=1e-3)
    score, _ = inception_score(torch.eye(10).repeat(20, 1) * 100)
    assert score == pytest.approx(10, rel=0.2)


def test_one_warning_of_bias(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="biased") as caught:
        fit, _ = run(tmp_path, fid(tmp_path, num_samples=5, every_n_steps=1))
    assert sum("biased" in str(warning.message) for warning in caught) == 1
    assert np.isfinite(float(fit.callback_metrics[NAME]))


def test_a_model_that_has_diverged_gets_nan(tmp_path: Path) -> None:
    class Diverged(Generator):
        def sample(self, n: int) -> Tensor:
            images = super().sample(n)
            return images * torch.nan if not torch.is_grad_enabled() and self.trainer.global_step > 3 else images

    callback = fid(tmp_path)
    fit, _ = run(tmp_path, callback, model=Diverged())
    assert fit.callback_metrics[NAME].isnan()
    assert callback.steps_to_best == 3


def test_infinite_pixels_get_nan_and_an_overshoot_is_clamped(tmp_path: Path) -> None:
    class Overshoot(Generator):
        def sample(self, n: int) -> Tensor:
            return super().sample(n) * (1.0 if torch.is_grad_enabled() else 1.5)

    class Infinite(Generator):
        def sample(self, n: int) -> Tensor:
            return super().sample(n) / (1.0 if torch.is_grad_enabled() else 0.0)

    fit, model = run(tmp_path, fid(tmp_path), model=Overshoot())
    plain = Generator()
    plain.load_state_dict(model.state_dict())
    images = []
    for start in range(0, 50, 16):
        torch.manual_seed(int(np.random.SeedSequence((0, start // 16)).generate_state(1)[0]))
        images.append(plain.eval().sample(min(16, 50 - start)).detach() * 1.5)
    fake = ((torch.cat(images).clamp(-1, 1) + 1) * 127.5).round().byte()
    assert float(fit.callback_metrics[NAME]) == pytest.approx(by_hand(real_bytes(), fake), rel=1e-5)
    fit, _ = run(tmp_path, fid(tmp_path), model=Infinite())
    assert fit.callback_metrics[NAME].isnan()


def test_a_second_fit_begins_anew_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    callback = fid(tmp_path)
    run(tmp_path, callback, max_epochs=1)
    callback.best, callback.steps_to_best = 1e-9, 2
    first, model = run(tmp_path, callback, max_epochs=1)
    assert callback.best == callback.values[NAME]
    assert callback.steps_to_best == STEPS
    callback.best, callback.steps_to_best = 1e-9, 2
    first.fit_loop.max_epochs = 2
    first.fit(model, loader())
    assert (callback.best, callback.steps_to_best) == (1e-9, 2)


def test_a_folder_of_images(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for index, image in enumerate(real_bytes()):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:02d}.png")
    callback = fid(tmp_path, real=str(folder.parent))
    fit, model = run(tmp_path, callback)
    assert float(fit.callback_metrics[NAME]) == pytest.approx(
        by_hand(real_bytes(), generated(callback, model)), rel=1e-5
    )


@pytest.mark.parametrize("uint8", [False, True])
def test_a_loader_in_another_range(tmp_path: Path, uint8: bool) -> None:
    images = real_bytes() if uint8 else real_bytes().float() / 255

    class ZeroToOne(Generator):
        def sample(self, n: int) -> Tensor:
            return (super().sample(n) + 1) / 2

    callback = fid(tmp_path, real=DataLoader(images, batch_size=3), value_range=(0, 1))
    fit, model = run(tmp_path, callback, model=ZeroToOne())
    model = model.eval()
    fake = generated(callback, model)  # maps from [-1, 1]
    fake = ((fake.float() / 127.5 - 1) * 255).round().byte()
    assert float(fit.callback_metrics[NAME]) == pytest.approx(by_hand(real_bytes(), fake), rel=0.02)


def test_another_method_that_samples(tmp_path: Path) -> None:
    class Renamed(Generator):
        def draw(self, n: int) -> Tensor:
            return self.sample(n)

    fit, _ = run(tmp_path, fid(tmp_path, sample_method="draw"), model=Renamed())
    reference, _ = run(tmp_path, fid(tmp_path))
    assert float(fit.callback_metrics[NAME]) == float(reference.callback_metrics[NAME])
    with pytest.raises(ValueError, match="sample_method='paint'; Generator has no such method"):
        run(tmp_path, fid(tmp_path, sample_method="paint"))


def test_missing_weights_are_said_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    started: list[bool] = []

    class Start(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            started.append(True)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network\nhere")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", fail)
    callbacks = [Start(), FIDCallback(), FIDCallback(weights_path=str(tmp_path / "missing.pth"))]
    for callback, reason in ((callbacks[1], "no network here"), (callbacks[2], "missing.pth")):
        with pytest.raises(RuntimeError, match=reason) as caught:
            run(tmp_path, callbacks[0], callback)
        text = str(caught.value)
        assert "\n" not in text
        assert "put weights-inception-2015-12-05-6726825d.pth from https://github.com/toshas/torch-fidelity/" in text
        assert str(tmp_path / "hub" / "checkpoints") in text
        assert "weights_path" in text
    assert not started


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 1}, "num_samples >= 2"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"every_n_steps": 0}, "every_n_steps >= 1"),
        ({"every_n_epochs": -1}, "every_n_epochs >= 1"),
        ({"metrics": ["fid", "lpips"]}, "metrics='lpips'"),
        ({"metrics": ["kid"]}, "'fid' has to be among them"),
        ({"metrics": ["fid", "isc"]}, "'isc' needs feature_extractor"),
        ({"value_range": (1, 1)}, "value_range"),
        ({"value_range": (float("-inf"), float("inf"))}, "two finite numbers"),
        ({"value_range": (0, float("nan"))}, "two finite numbers"),
        ({"weights_path": "x"}, "weights_path is for a named extractor"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fid(tmp_path, **arguments)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(real_bytes().float() / 127.5 - 1)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (DataLoader(real_bytes().to(torch.int16)), "real images have dtype torch.int16"),
        (DataLoader(real_bytes().float() / torch.zeros(())), "not finite"),
        (DataLoader(real_bytes().float() / 100), "values from 0 to 2.5.*value_range"),
        (DataLoader(TensorDataset(real_bytes()[:, 0])), "shape \\(16, 8, 8\\); it takes images"),
        (DataLoader([{"image": 1}] * 30), "a batch of real images has a dict"),
        (DataLoader(real_bytes(3)), "there are 3 real images"),
        (DataLoader(Endless()), "loader of Endless; give a DataLoader over a dataset with a length"),
        ("no/such/folder", "no/such/folder holds no images"),
    ],
)
def test_other_real_images_are_refused(tmp_path: Path, real: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(tmp_path, fid(tmp_path, real=real))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(3, 1, 8, 8), "asked for 16 samples"),
        ("images", "the model gave a str"),
        (
            torch.rand(16, 1, 8, 8) * 255,
            r"generated images have values from .* to 25\d.*, beyond value_range",
        ),
        (torch.ones(16, 1, 8, 8, dtype=torch.int8), "generated images have dtype torch.int8"),
        (torch.ones(16, 1, 8, 8, dtype=torch.bool), "generated images have dtype torch.bool"),
        (torch.zeros(16, 2, 8, 8), "images with 2 channels, the real images have 1"),
        (torch.zeros(16, 4, 8, 8), "images with 4 channels, the real images have 1"),
    ],
)
def test_other_samples_are_refused(tmp_path: Path, output: Any, message: str) -> None:
    class Wrong(Generator):
        def sample(self, n: int) -> Tensor:
            return super().sample(n) if torch.is_grad_enabled() else output

    with pytest.raises(ValueError, match=message):
        run(tmp_path, fid(tmp_path), model=Wrong())


@pytest.mark.parametrize(("black", "warns"), [(0.0, True), (-1.0, False)])
def test_one_warning_where_black_is_not_where_it_should_be(tmp_path: Path, black: float, warns: bool) -> None:
    images = real_bytes().float() / 255 * (1 - black) + black
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, fid(tmp_path, real=DataLoader(images, batch_size=3)))
    texts = [str(warning.message) for warning in caught if "no value below 0" in str(warning.message)]
    assert len(texts) == warns
    assert all("value_range=(0, 1)" in text for text in texts)


def test_other_extractors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Identity gave shape \(4, 1, 8, 8\) for 4 images"):
        run(tmp_path, fid(tmp_path, feature_extractor=nn.Identity()))
    with pytest.raises(ValueError, match="'dino'; torch-fidelity has inception-v3-compat"):
        run(tmp_path, fid(tmp_path, feature_extractor="dino"))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("tiny-features", "fd_tiny-features"),
        ({"class_path": "helpers.tiny_generator.Features", "init_args": {"seed": 2}}, "fd_features"),
        (None, "fid"),
    ],
)
def test_from_a_configuration_file(given: Any, name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FIDCallback, "fid")
    settings = {"every_n_steps": 10, "real": "folder", "metrics": ["fid", "kid"]}
    if given is not None:
        settings["feature_extractor"] = given
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the name before 4.49
    parsed = instantiate(parser.parse_object({"fid": settings})).fid
    assert parsed.name == name
    assert parsed.every_n_steps == 10
    assert parsed.value_range == (-1.0, 1.0)


def test_the_extractor_waits_on_the_cpu(tmp_path: Path) -> None:
    moves: list[str] = []

    class Moved(Count):
        def to(self, device: Any) -> "Moved":  # type: ignore[override]
            moves.append(str(device))
            return self

    run(tmp_path, fid(tmp_path, feature_extractor=Moved()), max_epochs=1)
    assert moves == ["cpu"] * 4  # to the device and back, for the real and for the generated images
    callback = fid(tmp_path)
    run(tmp_path, callback)
    assert callback._evaluation is None


def test_nothing_happens_in_a_prediction(tmp_path: Path) -> None:
    class Predicted(Generator):
        def predict_step(self, batch: Any) -> None:
            pass

    callback = FIDCallback(weights_path="nowhere")
    trainer(tmp_path, [callback]).predict(Predicted(), loader(), return_predictions=False)


@pytest.mark.parametrize("train_mode", [False, True])
def test_examples_are_the_first_images_that_are_measured(tmp_path: Path, train_mode: bool) -> None:
    class Draw(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.examples = callback.examples(trainer, pl_module, 5)

    callback, draw = fid(tmp_path, train_mode=train_mode), Draw()
    fit, model = run(tmp_path, callback, draw)
    undisturbed, weights = run(tmp_path)[1].state_dict(), model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in undisturbed.items())
    assert model.training
    torch.testing.assert_close(draw.examples, generated(callback, model, train_mode)[:5], atol=1, rtol=0)
    assert callback.evaluated_at == fit.global_step


def test_what_was_measured_last_and_how_long_it_took(tmp_path: Path) -> None:
    callback, watch = fid(tmp_path, every_n_steps=2), Watch()
    fit, _ = run(tmp_path, callback, watch, max_epochs=1)
    assert callback.values == {
        NAME: pytest.approx(float(fit.callback_metrics[NAME])),
        f"{NAME}/best": callback.best,
        f"{NAME}/steps_to_best": callback.steps_to_best,
    }
    assert callback.evaluated_at == STEPS
    assert callback.seconds > 0


def test_in_rich_s_display_the_bar_is_one_of_its_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: dict[int, tuple[str, float]] = {}
    left: list[str] = []

    class Bar(RichProgressBar):
        def on_train_batch_start(self, *args: Any) -> None:
            super().on_train_batch_start(*args)
            left.extend(task.description for task in self.progress.tasks if NAME in task.description)

        def refresh(self, hard: bool = False) -> None:
            super().refresh(hard)
            seen.update({task.id: (task.description, task.completed) for task in self.progress.tasks})

    run(tmp_path, fid(tmp_path, every_n_steps=2), Bar(), enable_progress_bar=True)
    assert sum(entry == (NAME, 50) for entry in seen.values()) >= 2  # the last can come after the display has ended
    assert left == []
    assert NAME not in capfd.readouterr().err


@pytest.mark.parametrize("shown", [True, False])
def test_other_displays_have_a_bar_of_tqdm_if_the_trainer_shows_bars(
    tmp_path: Path, shown: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, fid(tmp_path), *[TQDMProgressBar()] * shown, enable_progress_bar=shown)
    assert (f"{NAME}:" in capfd.readouterr().err) == shown


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("given", [True, False])
def test_outside_of_a_training_it_is_measured_once(stage: str, given: bool, tmp_path: Path) -> None:
    class Evaluated(Generator):
        def validation_step(self, batch: Any) -> None:
            pass

        test_step = validation_step

    model = Evaluated()
    in_training = fid(tmp_path, every_n_epochs=1)
    trainer(tmp_path, [in_training], max_epochs=1).fit(model, loader())
    measure = fid(tmp_path, real=loader() if given else None)
    run = trainer(tmp_path, [measure])
    if given:
        (values,) = getattr(run, stage)(model, loader(), verbose=False)
    else:
        model.train_dataloader = loader  # type: ignore[method-assign]
        (values,) = getattr(run, stage)(model, loader(), verbose=False)
    assert values["fd_features"] == pytest.approx(in_training.values["fd_features"], rel=1e-5)
    assert measure.values.keys() == {"fd_features"}


def test_outside_of_a_training_real_images_are_needed(tmp_path: Path) -> None:
    class Evaluated(Generator):
        def test_step(self, batch: Any) -> None:
            pass

    with pytest.raises(ValueError, match=r"^FIDCallback has no real images, .*; give a folder as `real`$"):
        trainer(tmp_path, [fid(tmp_path)]).test(Evaluated(), loader(), verbose=False)
