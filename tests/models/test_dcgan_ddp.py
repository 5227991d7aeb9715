"""DCGAN in two processes, by Lightning's plain ddp strategy, against both processes' updates written out."""

import copy
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mn_lightning import swap_norms
from mn_lightning.models import DCGAN
from mn_lightning.models.dcgan import discriminator_loss, generator_loss

LR, STEPS, PROCESSES, N = 0.05, 2, 2, 4

SCRIPT = f"""
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from test_dcgan_ddp import STEPS, gan, real_images
from helpers.tiny import mixture_callbacks, trainer
from torch.utils.data import DataLoader

from mn_lightning.callbacks import SampleGridCallback

torch.set_num_threads(1)
folder = Path(sys.argv[1])


class Seed(Callback):
    def on_train_start(self, trainer, model):
        torch.manual_seed(7)  # the same in all processes, as seed_everything does


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return {STEPS * N}

    def __getitem__(self, index):
        return real_images(run.global_rank).flatten(0, 1)[index]


model = gan()
grids = SampleGridCallback(every_n_steps=1, num_samples=4)
callbacks = [Seed(), *mixture_callbacks(["deconv1", "deconv2"]), grids]
run = trainer(
    folder, callbacks, strategy="ddp", devices={PROCESSES}, use_distributed_sampler=False, max_epochs=-1
)
run.fit(model, DataLoader(Data(), batch_size={N}))
torch.save(dict(model.named_parameters()), folder / f"rank{{run.global_rank}}.pt")
"""


def gan() -> DCGAN:
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=LR)
    return DCGAN(1, 32, 5, 2, generator_optimizer=sgd, discriminator_optimizer=sgd, max_generator_steps=STEPS)


def real_images(rank: int) -> Tensor:
    """The batches of a process, ``(STEPS, N, 1, 32, 32)``."""
    return torch.rand(STEPS, N, 1, 32, 32, generator=torch.Generator().manual_seed(10 + rank)) * 2 - 1


def latents() -> tuple[Tensor, ...]:
    """Those of all processes are drawn at once, and dealt."""
    return (torch.rand(PROCESSES * N, 5) * 2 - 1).chunk(PROCESSES)


def step(networks: list[nn.Module], losses: list[Tensor]) -> None:
    """Plain gradient descent, of all copies of a network, along the mean of their gradients."""
    gradients = [
        torch.autograd.grad(loss, list(network.parameters())) for network, loss in zip(networks, losses, strict=True)
    ]
    for network in networks:
        for parameter, *of_ranks in zip(network.parameters(), *gradients, strict=True):
            parameter.data -= LR * torch.stack(of_ranks).mean(0)


def by_hand() -> dict[str, nn.Parameter]:
    model = gan()
    swap_norms(model, ["deconv1", "deconv2"])
    ranks = [model, copy.deepcopy(model)]
    torch.manual_seed(7)
    for i in range(STEPS):
        fakes = [rank.generator(z).detach() for rank, z in zip(ranks, latents(), strict=True)]
        losses = [
            discriminator_loss(rank.discriminator(real_images(r)[i]), rank.discriminator(fakes[r]))
            for r, rank in enumerate(ranks)
        ]
        step([rank.discriminator for rank in ranks], losses)
        losses = [
            generator_loss(rank.discriminator(rank.generator(z))) for rank, z in zip(ranks, latents(), strict=True)
        ]
        step([rank.generator for rank in ranks], losses)
    return dict(ranks[0].named_parameters())


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(PROCESSES))
    start = gan().state_dict()
    for name, expected in by_hand().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, atol=1e-6, rtol=1e-5)
        assert not torch.equal(first[name], start[name]), name
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["000001.png", "000002.png"]
