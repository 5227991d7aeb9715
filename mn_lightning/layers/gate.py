"""The gate of a mode norm: a linear map from means to the logits of the modes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATE_STD = 0.01


class Gate(nn.Module):
    """A linear map that begins near the uniform distribution over its outputs.

    It is no ``nn.Linear``, so that what is done to all of these in a network (quantization, low-rank adapters, another
    initialization) leaves it alone. The norm reads :attr:`weight` and :attr:`bias`; a parametrization of them works.

    Args:
        in_features: number of inputs.
        n_components: number of modes K.

    Attributes:
        weight: W, ``(K, in_features)``.
        bias: b, ``(K,)``.

    Examples:
        >>> Gate(8, n_components=2)(torch.randn(16, 8)).softmax(-1).shape
        torch.Size([16, 2])
    """

    def __init__(self, in_features: int, n_components: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = n_components
        self.weight = nn.Parameter(torch.empty(n_components, in_features))
        self.bias = nn.Parameter(torch.empty(n_components))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights around 1/K, with noise that lets the modes grow apart; set biases to 0."""
        nn.init.normal_(self.weight, mean=1 / self.out_features, std=GATE_STD)
        nn.init.zeros_(self.bias)

    def forward(self, means: Tensor) -> Tensor:
        """Return the logits, ``(*, K)``, for ``(*, in_features)``."""
        return F.linear(means, self.weight, self.bias)

    def parameters_for(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return W and b for the activation ``(N, C, *)``, after the hooks that a user has put on the gate.

        Pruning and older weight norms are such hooks: they set :attr:`weight` anew before each call.
        """
        if self._forward_pre_hooks or self._forward_hooks:
            means = input.detach().flatten(2).mean(-1) if input.dim() > 2 else input.detach()
            self((means if self.in_features > 1 else means.unsqueeze(-1)).to(self.weight.dtype))
        return self.weight, self.bias

    def extra_repr(self) -> str:
        """Return the sizes, in torch's form."""
        return f"in_features={self.in_features}, out_features={self.out_features}"
