"""The order of a mixture's components: any is as good, but averages of mixtures need the same one."""

import torch
from torch import Tensor

from mn_lightning.kernels.types import Mixture


def aligned(mixture: Mixture, previous: Mixture) -> Mixture:
    """Bring the components of ``mixture`` into the order of those of ``previous`` that they are nearest to.

    Nearest pairs are matched first, and components in use before those of weight 0. Distances between means are
    measured in the standard deviations of ``mixture``.

    Args:
        mixture: weights ``(K,)``, or ``(K, C)`` per channel; means and variances ``(K, C)``.
        previous: of the same shapes.

    Returns:
        The same mixture.

    Examples:
        >>> weights, ones = torch.tensor([0.2, 0.8]), torch.ones(2, 1)
        >>> previous = Mixture(weights, torch.tensor([[-3.0], [4.0]]), ones)
        >>> aligned(Mixture(weights, torch.tensor([[4.1], [-3.1]]), ones), previous).means.flatten()
        tensor([-3.1000,  4.1000])
    """
    per_channel = mixture.weights.dim() == 2
    new, old = (_by_group(one) if per_channel else _as_one_group(one) for one in (mixture, previous))
    spread = (new.weights.unsqueeze(-1) * new.variances).sum(1, keepdim=True).unsqueeze(1)
    distance = ((old.means.unsqueeze(2) - new.means.unsqueeze(1)).square() / (spread + 1e-12)).sum(-1)  # (G, K, K)
    unused = (old.weights == 0).unsqueeze(2) | (new.weights == 0).unsqueeze(1)
    order = _match(torch.where(unused, distance + distance.max() + 1, distance))
    if per_channel:
        return Mixture(*(value.gather(0, order.mT) for value in mixture))
    return Mixture(*(value[order[0]] for value in mixture))


def _match(cost: Tensor) -> Tensor:
    """Column for each row, ``(G, K)``: of what is left of ``(G, K, K)``, the cheapest pair, K times."""
    groups, size, _ = cost.shape
    cost = cost.clone()
    order = torch.zeros(groups, size, dtype=torch.long, device=cost.device)
    index = torch.arange(groups, device=cost.device)
    for _ in range(size):
        pair = cost.flatten(1).argmin(1)
        row, column = pair // size, pair % size
        order[index, row] = column
        cost[index, row] = torch.inf
        cost[index, :, column] = torch.inf
    return order


def _as_one_group(mixture: Mixture) -> Mixture:
    return Mixture(*(value.unsqueeze(0) for value in mixture))


def _by_group(mixture: Mixture) -> Mixture:
    return Mixture(mixture.weights.mT, mixture.means.mT.unsqueeze(-1), mixture.variances.mT.unsqueeze(-1))
