"""The gates of mode normalization for an input, and numbers about them.

Summing over samples and computing means from the sums are separate functions, because several processes add their sums
in between.
"""

import torch
from torch import Tensor

from mn_lightning.functional.rows import upcast
from mn_lightning.layers import ModeGroupNorm, ModeNorm
from mn_lightning.utils.precision import full_precision


@torch.no_grad()
@full_precision
def gates(input: Tensor, layer: ModeNorm | ModeGroupNorm) -> Tensor:
    """Return the gates g of a layer for an input.

    Args:
        input: ``(N, C, *)``.
        layer: the layer with the gates.

    Returns:
        ``(N, K)``; for ModeGroupNorm, which sorts channels, ``(N, C, K)``.

    Examples:
        >>> gates(torch.randn(16, 8, 4, 4), ModeNorm(8, n_components=2)).shape
        torch.Size([16, 2])
    """
    x = upcast(input)
    pooled = x if x.dim() == 2 else x.mean(tuple(range(2, x.dim())))
    if isinstance(layer, ModeGroupNorm):
        pooled = pooled.unsqueeze(-1)
    weight, bias = layer.gate.weight.to(x.dtype), layer.gate.bias.to(x.dtype)
    return (pooled @ weight.mT + bias).softmax(-1)


def gate_sums(gate: Tensor) -> Tensor:
    """Sum over samples (and channels) the values that :func:`gate_statistics` needs.

    Args:
        gate: ``(N, K)`` or ``(N, C, K)``.

    Returns:
        ``(2 + 2K,)``: the number of samples (or channels), the sum of their gates' entropies, for each mode the sum of
        its gates, and for each mode the number of samples whose largest gate it has.

    Examples:
        >>> gate_sums(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        tensor([3., 0., 2., 1., 2., 1.])
    """
    gate = gate.flatten(0, -2)
    largest = gate.argmax(-1, keepdim=True) == torch.arange(gate.shape[1], device=gate.device)
    return torch.cat(
        [
            gate.new_full((1,), float(len(gate))),
            torch.special.entr(gate).sum().reshape(1),
            gate.sum(0),
            largest.to(gate.dtype).sum(0),
        ]
    )


def gate_statistics(sums: Tensor) -> dict[str, Tensor]:
    """Compute means from :func:`gate_sums`, over all batches and processes whose sums were added.

    Args:
        sums: ``(2 + 2K,)``.

    Returns:
        0-d tensors: ``gate_entropy``, the mean over samples of their gates' entropy, in nats, at most ln K; for each
        mode k, from 0, ``gate_k``, its mean gate, and ``share_k``, the share of the samples whose largest gate it has.
        NaN if there was no sample.

    Examples:
        >>> numbers = gate_statistics(gate_sums(torch.tensor([[0.75, 0.25], [0.25, 0.75]])))
        >>> sorted(numbers)
        ['gate_0', 'gate_1', 'gate_entropy', 'share_0', 'share_1']
    """
    means = sums[1:] / sums[0]
    entropy, gate, share = means[0], *means[1:].chunk(2)
    return {
        "gate_entropy": entropy,
        **{f"gate_{k}": value for k, value in enumerate(gate)},
        **{f"share_{k}": value for k, value in enumerate(share)},
    }
