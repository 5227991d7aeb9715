"""Parameters that are sharded over the processes (FSDP), through Lightning's ModelParallelStrategy.

Its FSDPStrategy, with the older FullyShardedDataParallel, refuses CPUs; so does ``fully_shard`` in torch 2.6, where a
CPU's streams cannot record an event.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gloo
from helpers.sharded_cases import sharded_fits
from helpers.tiny import network
from helpers.trainer_cases import fit

from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.kernels import select
from mn_lightning.models import ImageClassifier

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="this torch shards on GPUs only"),
]
NORMS = ["mixture", "mode", "mode_group"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def fits(folder: Path) -> list[dict[str, Any]]:
    return gloo.run(sharded_fits, 2, folder, folder, NORMS)


@pytest.mark.parametrize("norm", NORMS)
def test_two_processes_train_as_one(norm: str, fits: list[dict[str, Any]], tmp_path: Path) -> None:
    with select.use("reference"):  # as synchronized processes compute: with another one rounding differs too
        alone = fit(0, tmp_path, norm=norm, precision="32-true")["state"]
    first, second = (found[norm] for found in fits)
    assert {"0.weight", "1.weight", "1.bias", "5.weight"} <= set(first["sharded"])
    for name, value in alone.items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        if "mixture_" not in name:  # the queues hold other rows of the batches
            # RMSprop divides by the size of small gradients too, and with it multiplies their rounding.
            torch.testing.assert_close(first["state"][name], value, rtol=1e-2, atol=2e-3, msg=name)


@pytest.mark.parametrize("norm", NORMS)
def test_the_checkpoint_is_loaded_in_one_process(norm: str, fits: list[dict[str, Any]], folder: Path) -> None:
    loaded = load_from_checkpoint(ImageClassifier, folder / norm / "last.ckpt", network=network())
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, fits[0][norm]["state"][name]), name
