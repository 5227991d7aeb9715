"""torch.compile: one graph, compiled once for training and once for evaluation, and the results of no compilation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import digits, trainer, weights_of
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.models import ImageClassifier

pytestmark = pytest.mark.slow
# aot_eager traces forward and backward pass as inductor does, and needs no compiler. What inductor makes of each layer
# is tested in layers/properties/test_compile.py.
BACKEND = "aot_eager" if shutil.which("g++") is None else "inductor"


class Count(Callback):
    """Graphs compiled by the end of each epoch."""

    def __init__(self, counter: CompileCounterWithBackend) -> None:
        self.counter = counter
        self.graphs: list[int] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.graphs.append(self.counter.frame_count)


def fit(
    folder: Path,
    norm: str,
    compiled: Callable[[LightningModule], Any],
    *more: Callback,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Weights, which evaluate to the same without compilation.

    SGD, as the default RMSprop makes a step out of a rounding error.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 10))
    model = ImageClassifier(network, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05))
    fewer = {"n_components": 2} if norm == "mixture" else {}  # smaller graphs
    callbacks = [NormSwapCallback("all", norm, **fewer), GMMRefitCallback(), QueueResetCallback(), *more]
    run = trainer(folder, callbacks, num_sanity_val_steps=0, **arguments)
    run.fit(compiled(model), digits())
    (metrics,) = run.validate(model, digits(), verbose=False)
    model.network = getattr(model.network, "_orig_mod", model.network)
    (eager,) = run.validate(model, digits(), verbose=False)
    assert metrics["val_loss"] == pytest.approx(eager["val_loss"], abs=1e-4)
    return {name.removeprefix("_orig_mod."): value for name, value in weights_of(model).items()}


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "mixture_" not in name:  # a refit may find another optimum where the queues' last digits differ
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.timeout(900)  # inductor's compiler, on a busy machine
@pytest.mark.parametrize(
    ("norm", "backend"), [("mixture", "aot_eager"), ("mode", "aot_eager"), ("mode_group", BACKEND)]
)
def test_a_compiled_network(norm: str, backend: str, tmp_path: Path) -> None:
    """``fullgraph=True`` refuses a graph break."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    count = Count(counter)

    def compiled(model: Any) -> Any:
        model.network = torch.compile(model.network, fullgraph=True, backend=counter)
        return model

    with torch._inductor.config.patch(compile_threads=1):  # others would have to import torch first
        found = fit(tmp_path, norm, compiled, count, max_epochs=3)
    close(found, fit(tmp_path, norm, lambda model: model, max_epochs=3))
    # Training, evaluation, and the smaller last batch that makes the size dynamic; none in the epochs after the first.
    assert count.graphs == [3] * 3


class Silent(ImageClassifier):
    """Logs nothing, which would break the graph."""

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])


def test_a_compiled_lightning_module(tmp_path: Path) -> None:
    """The swap in ``setup`` comes after ``torch.compile``, and before anything is compiled."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    states = []
    for compiles in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
        model = Silent(network, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05))
        given = torch.compile(model, fullgraph=True, backend=counter) if compiles else model
        run = trainer(tmp_path, [NormSwapCallback("all", "mode")], max_epochs=1, limit_val_batches=0)
        run.fit(given, digits())
        states.append(weights_of(model))
    assert "2.gate.weight" in states[0]
    assert counter.frame_count == 2
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)
