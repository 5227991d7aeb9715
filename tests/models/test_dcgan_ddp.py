"""DCGAN in two processes, by Lightning's plain ddp strategy, against both processes' updates written out."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import gloo
from helpers.dcgan_cases import LR, PROCESSES, STEPS, N, gan, real_images, train
from torch import Tensor, nn

from mn_lightning import swap_norms
from mn_lightning.models.dcgan import discriminator_loss, generator_loss


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
    first, second = gloo.run(train, PROCESSES, tmp_path / "processes", tmp_path)
    start = gan().state_dict()
    for name, expected in by_hand().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, atol=1e-6, rtol=1e-5)
        assert not torch.equal(first[name], start[name]), name
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["000001.png", "000002.png"]
