"""Norm layers whose statistics several processes take anew."""

import torch
from torch import Tensor, nn

import mn_lightning as mn

CHANNELS = 3
SHARES = (3, 1)
"""How many of the batches each process has."""


def batches(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    scales = torch.rand(count, CHANNELS, 1, generator=generator, dtype=torch.float64) + 0.5
    return list(
        scales[:, None] * torch.randn(count, 6, CHANNELS, 5, generator=generator, dtype=torch.float64) + scales[:, None]
    )


def model() -> nn.ModuleList:
    """One layer of each kind, whose statistics are those of other data; all see the same input."""
    torch.manual_seed(1)

    class Beside(nn.ModuleList):
        def forward(self, x: Tensor) -> None:
            for layer in self:
                layer(x)

    # With one component and a queue that holds everything, the mixture is the Gaussian of all rows.
    mixture = mn.MixtureNorm(CHANNELS, n_components=1, queue_decay=1, queue_rows_per_batch=None)
    layers = Beside([nn.BatchNorm1d(CHANNELS), mn.ModeNorm(CHANNELS), mixture]).double()
    for _ in range(3):
        layers(9 + torch.randn(6, CHANNELS, 5, dtype=torch.float64))
    return layers


def update(rank: int) -> dict[str, Tensor]:
    layers = model()
    assert mn.update_norms(layers, list(torch.utils.data.Subset(batches(), _mine(rank)))) == 3
    return layers.state_dict()


def _mine(rank: int) -> range:
    start = sum(SHARES[:rank])
    return range(start, start + SHARES[rank])
