"""FIDCallback in 1, 2 and 3 processes, by Lightning's ddp strategy on CPUs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_generator import REAL

SCRIPT = """
import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from helpers.tiny import trainer
from helpers.tiny_generator import Features, Generator, fid, loader

from mn_lightning.callbacks import FIDCallback
from mn_lightning.fid.evaluation import Evaluation

torch.set_num_threads(1)
folder, devices, fails = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "fails"


class Model(Generator):
    # The weights stay what they are; the buffers are those of each process.
    def __init__(self):
        super().__init__()
        self.network[1].momentum = 0.0
        self.register_buffer("offset", torch.zeros(()))

    def sample(self, n):
        if fails and self.global_rank == 1 and self.global_step > 1:
            raise ValueError("only here")
        return super().sample(n) * 0.5 + self.offset

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Offset(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        module.offset.fill_(0.1 + 0.2 * module.global_rank)

    def on_train_end(self, trainer, module):
        self.last = float(module.offset)


def counted(evaluation, generated):
    counts[evaluation.names["fid"]] = int(generated.sums.count)
    return compute(evaluation, generated)


compute, Evaluation._compute = Evaluation._compute, counted


def named(name):
    features = Features()
    features.name = name
    return features


def measured(name, **arguments):
    options = {"num_samples": 50, "batch_size": 8, "every_n_steps": 2, "cache_dir": str(folder / f"cache{devices}")}
    return FIDCallback(feature_extractor=named(name), **{**options, **arguments})


counts = {}
callbacks = [
    Offset(),
    measured("plain", metrics=["fid", "kid"], log_floor=True),
    measured("train", train_mode=True),
    measured("few", num_samples=7),
    measured("uneven", num_samples=37, batch_size=5),
    EarlyStopping("fd_plain", patience=100),
    ModelCheckpoint(folder / f"checkpoints{devices}", monitor="fd_plain", every_n_train_steps=2),
]
run = trainer(folder, callbacks, strategy="ddp", devices=devices, enable_checkpointing=True, max_steps=4, max_epochs=-1)
torch.manual_seed(run.global_rank)  # the callback must not depend on it
model = Model()
run.fit(model, loader(batch_size=2))
result = {
    "metrics": {name: float(value) for name, value in run.callback_metrics.items() if name != "loss"},
    "best": [callback.best for callback in callbacks[1:5]],
    "counts": counts,
    "offset": callbacks[0].last,
}
(folder / f"result{devices}-{run.global_rank}.json").write_text(json.dumps(result))
"""


def launch(folder: Path, devices: int, mode: str = "works") -> tuple[int, str]:
    """Run the script in a session of its own, of which nothing is left afterwards; Lightning finds a free port."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("MASTER_PORT", "LOCAL_RANK")}
    environment |= {"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(devices), mode],
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("w"),
    )
    try:
        return process.wait(timeout=150), (folder / "stderr").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("fid")
    found = {}
    for devices in (1, 2, 3):
        code, errors = launch(folder, devices)
        assert code == 0, errors
        found[devices] = [json.loads((folder / f"result{devices}-{rank}.json").read_text()) for rank in range(devices)]
    return found


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("devices", [2, 3])
def test_same_values_in_any_number_of_processes(results: dict[int, list[dict[str, Any]]], devices: int) -> None:
    expected = results[1][0]["metrics"]
    assert {"fd_plain", "fd_plain/best", "fd_plain/floor", "kd_plain", "fd_train", "fd_few", "fd_uneven"} <= set(
        expected
    )
    assert expected["fd_train"] != pytest.approx(expected["fd_plain"], rel=1e-3)
    for result in results[devices]:
        assert result["metrics"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert result["best"] == pytest.approx(results[1][0]["best"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_exactly_so_many_samples_and_every_process_keeps_its_buffers(
    results: dict[int, list[dict[str, Any]]], devices: int
) -> None:
    assert REAL % 3 == 0
    counts = {"fd_plain": 50, "fd_train": 50, "fd_few": 7, "fd_uneven": 37}
    assert results[devices][0]["counts"] == counts
    for rank, result in enumerate(results[devices]):
        assert result["offset"] == pytest.approx(0.1 + 0.2 * rank)


@pytest.mark.slow
@pytest.mark.processes
def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    code, errors = launch(tmp_path, 2, "fails")
    assert code != 0
    assert "only here" in errors
    assert "another process failed" in errors
