"""The benchmark programs run and write what they should; how long anything takes is not tested."""

import contextlib
import io
import json
import math
import os
import runpy
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.data_files import write_fashion_mnist
from helpers.forked import Forked
from helpers.pytest_in import pytest_in
from lightning import Trainer

from benchmarks import (
    data,
    epochs,
    evaluation_moments,
    fit,
    generator_refits,
    gpu,
    layers,
    networks,
    scaling,
    study_slots,
    trainer_steps,
)
from benchmarks._timing import Target, cells, judged, ratio, seconds
from mn_lightning import ModeNorm
from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.data import TorchvisionDataModule
from mn_lightning.models import DCGAN, CIFARConvNet, ImageClassifier, LeNet
from mn_lightning.models import networks as mn_networks
from mn_lightning.models.networks.cifar_res_net import _CIFARResNet

POPEN = subprocess.Popen


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def result_of(benchmark: Any, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark on tiny inputs, and look at what all of them have in common."""
    path = folder / "deep" / "result.json"
    benchmark.main(["--quick", "--json", str(path), *arguments])
    result = json.loads(path.read_text())
    assert benchmark.__name__ == f"benchmarks.{result['benchmark']}"
    assert set(result["versions"]) == {"python", "torch", "lightning", "mn-lightning"}
    assert result["machine"]["cpu"]
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["gpu"] is None
    assert result["date"].startswith("20")
    assert result["settings"]["rounds"] == 1
    assert result["rows"]
    assert all(math.isfinite(number) for number in numbers(result))
    for row in result["rows"]:
        if row["target"] is not None:
            relation, limit = row["target"].split()
            reached = row["slope"] if "slope" in row else row["ratio"]
            assert row["met"] == (reached <= float(limit) if relation == "<=" else reached >= float(limit))
    return result


def one_table(text: str) -> bool:
    return text.count("┏") == 1


def test_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result_of(layers, tmp_path)["rows"]
    assert one_table(capsys.readouterr().out)
    inputs = {("4x8x3x3", "contiguous"), ("4x8x3x3", "channels_last"), ("4x8", "contiguous")}
    assert {(row["shape"], row["format"]) for row in rows} == inputs
    for name in ("ModeNorm K=2", "ModeNorm K=6", "ModeGroupNorm K=2", "MixtureNorm K=3", "MixtureNorm ReLU inside"):
        assert {row["mode"] for row in rows if row["layer"] == name} == {"training", "evaluation"}
    for row in rows:
        assert row["layer_ms"] > 0
        assert row["reference_ms"] > 0
        # With one round, the median of the ratios is the ratio of the medians.
        assert row["ratio"] == pytest.approx(row["layer_ms"] / row["reference_ms"])


def test_layers_with_several_threads(tmp_path: Path) -> None:
    options = "--threads", "1", "2", "--layers", "ModeNorm K=2", "official ModeNorm K=2"
    rows = result_of(layers, tmp_path, *options)["rows"]
    assert [row["threads"] for row in rows] == sorted(row["threads"] for row in rows)
    assert {row["threads"] for row in rows} == {1, 2}
    assert {row["layer"] for row in rows} == {"ModeNorm K=2", "official ModeNorm K=2"}
    assert {row["target"] for row in rows if row["shape"] == "4x8"} == {"<= 2"}


def test_layers_in_cpu_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result_of(layers, tmp_path, "--clock", "cpu", "--layers", "ModeNorm K=2")["rows"]
    assert {row["threads"] for row in rows} == {1}
    assert "CPU time" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        layers.main(["--quick", "--clock", "cpu", "--threads", "2"])
    assert "--clock cpu measures one thread" in capsys.readouterr().err


def test_cpu_time_is_not_that_of_a_pause() -> None:
    x = torch.randn(600, 600)
    assert seconds(lambda: time.sleep(0.3), "cpu", clock="cpu") < 0.1
    assert seconds(lambda: time.sleep(0.1), "cpu") > 0.09
    assert seconds(lambda: x @ x, "cpu", clock="cpu") > 0


def test_layers_with_several_backends(tmp_path: Path) -> None:
    rows = result_of(layers, tmp_path, "--backends", "reference", "cpu", "--layers", "ModeNorm K=2")["rows"]
    assert {row["backend"] for row in rows} == {"reference", "cpu"}
    assert {row["layer"] for row in rows} == {"ModeNorm K=2"}


def test_trainer_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result_of(trainer_steps, tmp_path)["rows"]
    assert one_table(capsys.readouterr().out)
    assert [row["what"].partition(",")[0] for row in rows] == ["ResNet20", "ResNet18", "DCGAN"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ours_ms"] / row["batchnorm_ms"])
        assert row["ours_mib"] > 0


class InThisProcess:
    """A step's process, but for the tests': its module is run here, where everything is imported already."""

    def __init__(self, command: list[str], stdout: Any, **_: Any) -> None:
        self.module, self.arguments, self.stdout = command[2], command[3:], stdout

    def wait(self, seconds: float | None = None) -> int:
        before, sys.argv = sys.argv, [self.module, *self.arguments]
        output = io.StringIO() if self.stdout == subprocess.DEVNULL else self.stdout
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                runpy.run_module(self.module, run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.argv = before
        return 0


def start(command: list[str], **how: Any) -> Any:
    """In place of Popen."""
    module = command[2] if command[1] == "-m" else ""
    if module == "pytest":
        return Forked(pytest_in, how["cwd"], log=Path(how["stdout"].name), argv=command[2:], environment=os.environ)
    return InThisProcess(command, **how) if module.startswith(("benchmarks", "mn_lightning")) else POPEN(command, **how)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, to see that every part runs."""
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(mn_networks, "ResNet20", lambda: _CIFARResNet(1, 3, 10))  # compiled three times
    gpu.main(["--device", "cpu", "--quick", "--minutes", "8", "--out", str(tmp_path)])
    steps = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert [step["name"] for step in steps] == [step.name for step in gpu.STEPS]
    assert {step["name"]: step["status"] for step in steps} == dict.fromkeys((step.name for step in gpu.STEPS), "done")
    report = json.loads((tmp_path / "machine.json").read_text())
    assert all(row["agrees"] for row in report["rows"])
    for name in ("layers", "compiled", "epochs", "trainer_steps", "fit"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["rows"]


def test_gpu_stops_in_time(tmp_path: Path) -> None:
    gpu.main(["--device", "cpu", "--quick", "--minutes", "0.002", "--out", str(tmp_path), "--parts", "e"])
    (step,) = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert step["status"].startswith("stopped")


def test_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result_of(networks, tmp_path, "--networks", "ResNet20", "--formats", "channels_last")["rows"]
    assert one_table(capsys.readouterr().out)
    assert [row["norm"] for row in rows] == ["ModeNorm", "MixtureNorm", "official ModeNorm"]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["ms"] / row["reference_ms"])


def test_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = result_of(fit, tmp_path, "--iterations", "3")["rows"]
    assert one_table(capsys.readouterr().out)
    assert row["ratio"] == pytest.approx(row["sklearn_ms"] / row["ours_ms"])
    assert row["our_log_likelihood"] == pytest.approx(row["sklearn_log_likelihood"], abs=1e-4)


def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result_of(data, tmp_path, "--images", "70", "--batch_size", "32")["rows"]
    assert one_table(capsys.readouterr().out)
    assert [row["data"] for row in rows] == [*data.REFERENCES, "batches, on_device=False", "batches, on_device=True"]
    for row in rows:
        assert row["images"] == 70
        assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ms"])
    assert [row["target"] for row in rows] == [None, None, None, ">= 5"]


def test_all_ways_to_read_give_the_same_kind_of_batches() -> None:
    images, labels = torch.zeros(70, 3, 32, 32, dtype=torch.uint8), torch.arange(70)
    args = Namespace(batch_size=32, device="cpu")
    loaders = [
        data.one_at_a_time(images, labels, args, num_workers=0),
        data.at_once(images, labels, args, on_device=False),
        data.at_once(images, labels, args, on_device=True),
    ]
    black = -torch.tensor(data.MEAN) / torch.tensor(data.STD)
    for loader in loaders:
        batches = list(loader)
        assert [tuple(x.shape) for x, _ in batches] == [(32, 3, 32, 32), (32, 3, 32, 32), (6, 3, 32, 32)]
        assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(70))
        torch.testing.assert_close(batches[0][0], black.view(3, 1, 1).expand(32, 3, 32, 32))


def test_scaling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result_of(scaling, tmp_path)["rows"]
    assert one_table(capsys.readouterr().out)
    assert [row["over"] for row in rows if row["layer"] == "MixtureNorm"] == [
        "components",
        "channels",
        "rows",
        "em_iters",
    ]
    for row in rows:
        (first, last), (before, after) = row["values"], row["ms"]
        assert row["slope"] == pytest.approx(math.log(after / before) / math.log(last / first))


def test_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *times, memory = result_of(epochs, tmp_path)["rows"]
    assert one_table(capsys.readouterr().out)
    assert memory["ratio"] == pytest.approx(memory["ours"] / memory["batchnorm"])
    assert [row["steps_in_an_epoch"] for row in times] == [196, 391]
    for row in times:
        assert row["batchnorm"] == pytest.approx(row["steps_in_an_epoch"] * row["batchnorm_step_ms"] / 1e3)
        ours = row["steps_in_an_epoch"] * row["ours_step_ms"] + row["refit_ms"]
        assert row["ratio"] == pytest.approx(ours / 1e3 / row["batchnorm"])
        assert row["refit_ms"] > 0


@pytest.mark.parametrize(
    "variant", [epochs.CONV_NET, epochs.INCEPTION, epochs.MEMORY], ids=lambda variant: variant.name
)
def test_what_is_measured_is_the_studys_variant(variant: epochs.Variant) -> None:
    configurations = files("mn_lightning") / "configs"
    study = yaml.safe_load((configurations / "studies" / f"{variant.study[0]}.yaml").read_text())
    swap = study["variants"][variant.study[1]]["trainer.callbacks+"]["init_args"]
    assert swap == {"norm": "mixture", "layers": variant.layers, "fuse_activation": True}
    name = study["base"] if isinstance(study["base"], str) else study["base"][0]
    base = yaml.safe_load((configurations / f"{name}.yaml").read_text())
    assert base["data"]["init_args"]["batch_size"] == variant.batch_size
    assert base["model"]["init_args"]["network"]["class_path"].rpartition(".")[2] == variant.network.__name__


def test_queues_are_full_before_the_refit_is_timed() -> None:
    model = epochs.classifier(epochs.with_mixtures(epochs.MEMORY, CIFARConvNet()))
    epochs.fill_queues(model, torch.randn(4, 3, 8, 8))
    for norm in (model.network.conv2.norm, model.network.conv3.norm):
        assert norm.queue.counts.min() > 0
        assert norm.stale


def test_peak_memory_is_that_of_the_tensors() -> None:
    def call() -> None:
        first = torch.ones(2**20)
        second = first + 1
        del first
        torch.ones(2**18).add_(float(second[0]))

    assert epochs.peak_memory(call, "cpu") == pytest.approx(2 * 2**22, rel=1e-3)


def test_the_official_formula_is_mode_norms() -> None:
    """The benchmark compares two ways to compute the same."""
    x = torch.randn(6, 4, 5, 5, requires_grad=True)
    ours, official = ModeNorm(4, 3), layers.OfficialModeNorm(4, 3)
    official.gate.load_state_dict(ours.gate.state_dict())
    y, expected = ours(x), official(x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
    dy = torch.randn_like(x)
    results = (torch.autograd.grad(out, x, dy)[0] for out in (y, expected))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def test_a_ratio_is_the_median_of_those_within_a_round() -> None:
    assert ratio({"a": [1.0, 2.0, 9.0], "b": [1.0, 1.0, 1.0]}, "a", "b") == 2
    assert ratio({"a": [1.0, 20.0, 3.0], "b": [1.0, 10.0, 1.0]}, "a", "b") == 2


def test_a_target_is_met_or_missed() -> None:
    assert cells(judged(1.2, Target("<=", 1.2))) == ("<= 1.2", "met")
    assert cells(judged(1.21, Target("<=", 1.2))) == ("<= 1.2", "missed")
    assert cells(judged(9.9, Target(">=", 10))) == (">= 10", "missed")
    assert cells(judged(10.1, Target(">=", 10))) == (">= 10", "met")
    assert cells(judged(1.0, None)) == ("", "")


def test_evaluation_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fashion_mnist(tmp_path)
    model = ImageClassifier(CIFARConvNet(1, 10))
    callbacks = [NormSwapCallback(["conv3"]), GMMRefitCallback(), QueueResetCallback()]
    options = {"logger": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=callbacks, **options)
    trainer.fit(model, TorchvisionDataModule("FashionMNIST", str(tmp_path), batch_size=20))
    checkpoints = [tmp_path / "MN-2" / f"seed-{seed}" / "checkpoints" / "last.ckpt" for seed in (0, 1)]
    for path in checkpoints:
        trainer.save_checkpoint(path)
    capsys.readouterr()
    evaluation_moments.main([str(tmp_path), *map(str, checkpoints)])
    *_, first, second, mean, _ = capsys.readouterr().out.splitlines()
    numbers = [cell.strip() for cell in first.split("│")[2:-1]]
    assert numbers == [cell.strip() for cell in second.split("│")[2:-1]]  # the same weights
    assert [cell.strip() for cell in mean.split("│")[2:-1]] == [f"{number} ± 0.0000" for number in numbers]
    (evaluated,) = trainer.validate(model, trainer.datamodule, verbose=False)
    assert float(numbers[0]) == pytest.approx(evaluated["val_acc"], abs=1e-4)


def test_generator_refits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_fashion_mnist(tmp_path)
    for name, value in {"REPETITIONS": 2, "SAMPLES": 128, "QUEUED_BATCHES": 2}.items():
        monkeypatch.setattr(generator_refits, name, value)
    data = TorchvisionDataModule("FashionMNIST", str(tmp_path), batch_size=20, normalize="symmetric")
    options = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    for folder, model, callbacks in (
        ("prepare/classifier", ImageClassifier(LeNet(1, 10)), []),
        ("runs/DCGAN-MN/seed-0", DCGAN(channels=1, base_channels=32), [NormSwapCallback(["deconv1"])]),
    ):
        run = Trainer(**options, callbacks=[*callbacks, GMMRefitCallback(), QueueResetCallback()])
        run.fit(model, data)
        for name in ("last", "best"):
            run.save_checkpoint(tmp_path / folder / "checkpoints" / f"{name}.ckpt")
    capsys.readouterr()
    generator_refits.main([str(tmp_path), str(tmp_path)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("seed-0")]
    assert [line[1] for line in lines] == ["2", "10", "100", "training"]
    assert all(float(line[2]) > 0 for line in lines[:3])


def test_a_schedule_is_that_of_a_queue() -> None:
    """Three runs of 2, 3 and 2 on two slots: the third starts at 2."""
    assert study_slots.schedule([2, 3, 2], 2) == 4
    assert study_slots.schedule([2, 3, 2], 1) == 7
    assert study_slots.schedule([2, 3, 2], 5) == 3


def test_study_slots(capsys: pytest.CaptureFixture[str]) -> None:
    rows = study_slots.main(["--unit", "0.02"])
    assert one_table(capsys.readouterr().out)
    assert [row.slots for row in rows] == [8, 64, 512]
    for row in rows:
        assert row.limit <= row.simulated <= row.limit * (2 - 1 / row.slots)  # Graham's bound
        assert row.measured >= row.limit
