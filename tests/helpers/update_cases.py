"""Norm layers whose statistics several processes take anew."""

import torch
from torch import Tensor, nn

import mn_lightning as mn

CHANNELS = 3
SHARES = (3, 1)
"""How many of the batches each process has."""


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    scales = torch.rand(sum(SHARES), 1, CHANNELS, 1, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(sum(SHARES), 6, CHANNELS, 5, generator=generator, dtype=torch.float64)
    return list(scales + scales * noise)


class Beside(nn.ModuleList):
    """Layers that all see the same input."""

    def forward(self, x: Tensor) -> None:
        for layer in self:
            layer(x)


def model() -> Beside:
    """One layer of each kind, whose statistics are those of other data."""
    torch.manual_seed(1)
    # With one component and a queue that holds everything, the mixture is the Gaussian of all rows.
    mixture = mn.MixtureNorm(CHANNELS, n_components=1, queue_decay=1, queue_rows_per_batch=None)
    total = mn.ModeNorm(CHANNELS, running="total")
    layers = Beside([nn.BatchNorm1d(CHANNELS), mn.ModeNorm(CHANNELS), mixture, total]).double()
    for _ in range(3):
        layers(9 + torch.randn(6, CHANNELS, 5, dtype=torch.float64))
    return layers


def update(rank: int) -> dict[str, Tensor]:
    layers, start = model(), sum(SHARES[:rank])
    assert mn.update_norms(layers, batches()[start : start + SHARES[rank]]) == 4
    return layers.state_dict()
