"""The classifier against cross entropy and accuracy in plain numpy."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.models import CIFARConvNet, ImageClassifier, recipes

N, CLASSES = 25, 4
EVALUATED = {"val_loss", "val_acc", "test_loss", "test_acc"}


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.ReLU(), nn.Linear(6, CLASSES))


def classifier(**arguments: Any) -> ImageClassifier:
    return ImageClassifier(**{"network": network(), "num_classes": CLASSES, **arguments})


def some_data(seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(N, 2, 3, 3, generator=generator)
    return TensorDataset(images, torch.randint(CLASSES, (N,), generator=generator))


def batches(batch_size: int = 10) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of 10, 10 and 5: means over batches and over images differ."""
    return DataLoader(some_data(), batch_size=batch_size)


def trainer(**arguments: Any) -> Trainer:
    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**settings, **arguments})


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def plain_metrics(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross entropy and accuracy."""
    p = probabilities(logits.detach().double().numpy())
    target = labels.numpy()
    return float(-np.log(p[np.arange(len(p)), target]).mean()), float((p.argmax(1) == target).mean())


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_logs_means_over_images(stage: str) -> None:
    model = classifier()
    run = trainer().validate if stage == "val" else trainer().test
    (logged,) = run(model, batches(), verbose=False)

    images, labels = some_data().tensors
    loss, accuracy = plain_metrics(model(images), labels)
    assert logged == pytest.approx({f"{stage}_loss": loss, f"{stage}_acc": accuracy}, abs=1e-5)
    assert 0 < accuracy < 1


class Log(Callback):
    """Notes what the loggers would be sent after each training step and each epoch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append({key: float(value) for key, value in trainer.logged_metrics.items()})

    def on_train_epoch_start(self, trainer: Trainer, _: LightningModule) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.epochs.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def test_training_logs_the_loss_of_every_step_and_the_accuracy_of_the_epoch() -> None:
    # A rate of 0 leaves the weights as they are, so that the whole epoch can be recomputed afterwards.
    model = classifier(optimizer=lambda parameters: optim.SGD(parameters, lr=0.0))
    log = Log()
    trainer(callbacks=[log], log_every_n_steps=1).fit(model, batches(), batches())

    losses = [plain_metrics(model(images), labels)[0] for images, labels in batches()]
    assert [step["train_loss"] for step in log.steps] == pytest.approx(losses, abs=1e-5)
    images, labels = some_data().tensors
    loss, accuracy = plain_metrics(model(images), labels)
    assert not any("train_acc" in step for step in log.steps)
    (epoch,) = log.epochs
    assert epoch["train_acc"] == epoch["val_acc"] == pytest.approx(accuracy)
    assert epoch["val_loss"] == pytest.approx(loss, abs=1e-5)
    assert set(epoch) == {"train_loss", "train_acc", "val_loss", "val_acc"}


def test_the_label_is_among_the_most_probable() -> None:
    """In validation and test, over all images; worked out by sorting."""
    model, data = classifier(top_k=2), some_data()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    loader = DataLoader(data, batch_size=10)
    logits = model.network(data.tensors[0]).detach().numpy()
    order = np.argsort(-logits, axis=1)[:, :2]
    expected = (order == data.tensors[1].numpy()[:, None]).any(1).mean()
    for evaluate, name in ((trainer.validate, "val_top2_acc"), (trainer.test, "test_top2_acc")):
        (logged,) = evaluate(model, loader, verbose=False)
        assert logged[name] == pytest.approx(expected, abs=1e-6)
        assert logged[name] > logged[name.replace("_top2", "")]


@pytest.mark.parametrize("top_k", [0, CLASSES + 1])
def test_more_classes_than_there_are(top_k: int) -> None:
    with pytest.raises(ValueError, match=rf"^ImageClassifier got top_k={top_k}; it takes 1 to num_classes=4, or None$"):
        classifier(top_k=top_k)


def test_metrics_of_an_epoch_hold_nothing_of_the_ones_before() -> None:
    model = classifier()
    log = Log()
    trainer(max_epochs=10, callbacks=[log]).fit(model, batches(), batches())
    images, labels = some_data().tensors
    loss, accuracy = plain_metrics(model(images), labels)
    assert log.epochs[-1]["val_loss"] == pytest.approx(loss, abs=1e-5)
    assert log.epochs[-1]["val_acc"] == pytest.approx(accuracy)
    assert log.epochs[0]["val_acc"] < accuracy


def test_training_step_returns_the_mean_loss_with_its_gradient() -> None:
    model = classifier()
    model.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    images, labels = some_data().tensors
    loss = model.training_step((images, labels))
    assert float(loss.detach()) == pytest.approx(plain_metrics(model(images), labels)[0], abs=1e-5)

    loss.backward()
    p = probabilities(model(images).detach().double().numpy())
    gradient = (p - np.eye(CLASSES)[labels.numpy()]).mean(0)
    np.testing.assert_allclose(model.network[-1].bias.grad.numpy(), gradient, atol=1e-6)


def test_the_default_optimizer_is_adam() -> None:
    model = classifier()
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, optim.Adam)
    assert optimizer.defaults["lr"] == 0.001
    (group,) = optimizer.param_groups
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in model.parameters()}


def step_by_hand(weights: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """RMSprop with momentum 0.9, rate 0.01 and torch's smoothing 0.99."""
    square, velocity = np.zeros_like(weights), np.zeros_like(weights)
    for gradient in gradients:
        square = 0.99 * square + 0.01 * gradient**2
        velocity = 0.9 * velocity + gradient / (np.sqrt(square) + 1e-8)
        weights = weights - 0.01 * velocity
    return weights


def test_fit_steps_as_rmsprop_by_hand() -> None:
    model = classifier(
        network=nn.Sequential(nn.Flatten(), nn.Linear(18, CLASSES, bias=False)),
        optimizer=partial(optim.RMSprop, lr=0.01, momentum=0.9),
    )
    start = model.network[1].weight.detach().double().numpy().copy()
    (images, labels) = (tensor.numpy() for tensor in some_data().tensors)
    weights, gradients = start, []
    for _ in range(3):
        flat = images.reshape(N, 18).astype(np.float64)
        p = probabilities(flat @ weights.T)
        gradients.append((p - np.eye(CLASSES)[labels]).T @ flat / N)
        weights = step_by_hand(start, gradients)
    trainer(max_epochs=3).fit(model, batches(N), batches())
    np.testing.assert_allclose(model.network[1].weight.detach().numpy(), weights, atol=1e-5)


@pytest.mark.parametrize("epochs", [1, 5])
def test_the_papers_schedule(epochs: int) -> None:
    model = classifier(optimizer=recipes.kalayeh_shah, lr_scheduler=recipes.kalayeh_shah_schedule)
    log = Log()
    fitting = trainer(max_epochs=epochs, callbacks=[log])
    fitting.fit(model, batches(), batches())
    assert log.rates == pytest.approx([0.01 * 0.93 ** (epoch // 2) for epoch in range(epochs)])
    assert fitting.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.93 ** (epochs // 2))


class Scaled(nn.Module):
    """Logits of 1, 0, 0, 0 times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * torch.eye(CLASSES)[:1].expand(len(images), -1)


@pytest.mark.parametrize(
    ("gets_better", "rates"),
    [
        (True, [0.01] * 6),
        # The first epoch is the best one; two without improvement are one too many.
        (False, [0.01, 0.01, 0.01, 0.005, 0.005, 0.0025]),
    ],
)
def test_reduce_on_plateau_watches_the_validation_loss(gets_better: bool, rates: list[float]) -> None:
    model = classifier(
        network=Scaled(),
        optimizer=lambda parameters: optim.SGD(parameters, lr=0.01, maximize=not gets_better),
        lr_scheduler=partial(optim.lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=1, threshold=0),
    )
    # The class is 0 for all, which the network answers from the start: the accuracy never changes.
    loader = DataLoader(TensorDataset(some_data().tensors[0], torch.zeros(N, dtype=torch.long)), batch_size=10)
    log = Log()
    trainer(max_epochs=6, callbacks=[log]).fit(model, loader, loader)
    assert log.rates == pytest.approx(rates)
    assert {epoch["val_acc"] for epoch in log.epochs} == {1.0}


def test_a_schedule_in_steps() -> None:
    """Three batches an epoch: drops after 2 and 5 updates fall inside epochs."""
    rates: list[float] = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    module = classifier(
        optimizer=partial(optim.SGD, lr=1.0),
        lr_scheduler=partial(optim.lr_scheduler.MultiStepLR, milestones=[2, 5], gamma=0.1),
        lr_scheduler_interval="step",
    )
    trainer(max_epochs=2, callbacks=[Watch()]).fit(module, batches())
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01])


def test_a_schedule_is_in_epochs_or_steps() -> None:
    with pytest.raises(ValueError, match="lr_scheduler_interval='batch'; it takes one of 'epoch', 'step'"):
        classifier(lr_scheduler_interval="batch")


def test_prediction_gives_probabilities() -> None:
    model = classifier()
    predicted = torch.cat(trainer().predict(model, batches()))
    images, labels = some_data().tensors
    expected = probabilities(model(images).detach().double().numpy())
    assert predicted.shape == (N, CLASSES)
    np.testing.assert_allclose(predicted.numpy(), expected, atol=1e-6)
    assert torch.equal(model.predict_step((images, labels)), model.predict_step(images))


@pytest.mark.parametrize(
    ("result", "given"),
    [
        (torch.zeros(N, CLASSES + 1), "returned shape (25, 5)"),
        (torch.zeros(N, CLASSES, 1), "returned shape (25, 4, 1)"),
        (torch.zeros(1, CLASSES), "returned shape (1, 4)"),
        ((torch.zeros(N, CLASSES),), "returned a tuple"),
    ],
)
def test_wrong_logits(result: Any, given: str) -> None:
    class Wrong(nn.Module):
        def forward(self, _: Tensor) -> Any:
            return result

    model = classifier(network=Wrong())
    images, labels = some_data().tensors
    for step in (model.training_step, model.validation_step, model.test_step, model.predict_step):
        with pytest.raises(
            ValueError, match=r"takes one tensor of logits of shape \(N, num_classes\) = \(25, 4\)"
        ) as e:
            step((images, labels))
        assert str(e.value).startswith(f"Wrong {given}; ")
        assert "\n" not in str(e.value)


def test_example_input_is_the_networks() -> None:
    assert classifier(network=CIFARConvNet()).example_input_array.shape == (2, 3, 32, 32)
    assert classifier().example_input_array is None


def test_a_checkpoint_is_read_with_the_network_given_again(tmp_path: Path) -> None:
    model = classifier()
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_acc", mode="max")
    fitting = trainer(
        max_epochs=2, limit_train_batches=2, limit_val_batches=1, enable_checkpointing=True, callbacks=[checkpoint]
    )
    fitting.fit(model, batches(), batches())

    path = checkpoint.best_model_path
    torch.load(path, weights_only=True)
    again = ImageClassifier.load_from_checkpoint(path, network=network(), num_classes=CLASSES)
    images, labels = some_data().tensors
    best = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, best[name]) for name, value in again.state_dict().items())
    accuracy = plain_metrics(again(images[:10]), labels[:10])[1]
    assert accuracy == pytest.approx(float(checkpoint.best_model_score))


def test_it_learns() -> None:
    model = classifier(optimizer=partial(optim.Adam, lr=0.01))
    images, labels = some_data().tensors
    before = plain_metrics(model(images), labels)[0]
    trainer(max_epochs=30).fit(model, batches(), batches())
    assert plain_metrics(model(images), labels)[0] < before / 2


def test_the_papers_network_trains() -> None:
    model = ImageClassifier(CIFARConvNet(in_channels=1))
    data = TensorDataset(torch.randn(6, 1, 32, 32), torch.arange(6))
    loader = DataLoader(data, batch_size=3)
    fitting = trainer(limit_train_batches=2, limit_val_batches=1, limit_test_batches=1)
    fitting.fit(model, loader, loader)
    fitted = set(fitting.callback_metrics)
    fitting.test(model, loader, verbose=False)
    logged = fitted | set(fitting.callback_metrics)
    assert logged >= EVALUATED | {"train_loss", "train_acc"}
    assert all(torch.isfinite(value) for value in fitting.callback_metrics.values())


def test_it_can_be_sent_to_other_processes() -> None:
    copied = pickle.loads(pickle.dumps(ImageClassifier(nn.Linear(3, 10))))
    assert isinstance(copied.configure_optimizers(), torch.optim.Adam)
