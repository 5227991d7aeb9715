"""Mode group normalization as a layer: a gate and an affine map."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mn_lightning import functional as F
from mn_lightning.functional.rows import check_input, is_empty, unchanged
from mn_lightning.layers.batch_norm import device_and_dtype
from mn_lightning.layers.gate import Gate
from mn_lightning.layers.loading import before_loading
from mn_lightning.layers.tracing import one_node
from mn_lightning.utils.checks import check_counts, check_eps, check_flags


class ModeGroupNorm(nn.Module):
    r"""Mode group normalization (Deecke, Murray & Bilen, arXiv:1810.05466, Algorithm 3), for small batches.

    A learned gate assigns each channel of a sample softly to K modes; the sample is normalized with the average over
    the modes of their normalizations (Eq. 5):

    .. math:: y = \frac{\gamma}{K} \sum_k \frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \quad
       g_c = \mathrm{softmax}(w \operatorname{mean}_*(x_c) + b)

    It depends on no other sample and is the same in training and evaluation. With one mode it is ``GroupNorm(1, C)``.

    Args:
        num_features: number of channels C of the input ``(N, C)`` or ``(N, C, *)``.
        n_components: number of modes K.
        eps: added to the variances.
        affine: whether there are γ (``weight``) and β (``bias``).
        device: as in torch's layers.
        dtype: as in torch's layers; computations are in float32 at least.

    Attributes:
        gate: the map w, b from a channel's mean to K logits.

    Raises:
        ValueError: an argument out of range; input of another rank or channel count; one value per sample.

    Examples:
        >>> layer = ModeGroupNorm(8, n_components=2)
        >>> x = torch.randn(4, 8, 4, 4)
        >>> torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)  # no sample depends on another
        True
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        n_components: int = 2,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_counts("ModeGroupNorm", num_features=num_features, n_components=n_components)
        check_eps("ModeGroupNorm", eps)
        check_flags("ModeGroupNorm", affine=affine)
        self.label = f"ModeGroupNorm({num_features})"  # in errors; a swap adds the layer's name in the model
        self.num_features = num_features
        self.n_components = n_components
        self.eps = eps
        self.affine = affine
        self.gate = Gate(1, n_components)
        self.register_parameter("weight", nn.Parameter(torch.empty(num_features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(num_features)) if affine else None)
        self.register_load_state_dict_pre_hook(before_loading)  # type: ignore[no-untyped-call]
        self.reset_parameters()
        self.to(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Set the affine map to the identity and the gates to nearly uniform."""
        self.gate.reset_parameters()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def from_batch_norm(cls, batch_norm: _BatchNorm, **kwargs: Any) -> "ModeGroupNorm":
        """Build the layer that replaces ``batch_norm``; it has no running statistics to take over.

        Args:
            batch_norm: a BatchNorm1d, 2d or 3d, or SyncBatchNorm.
            **kwargs: arguments of the layer; ``eps``, ``affine``, ``device`` and ``dtype`` are ``batch_norm``'s
                otherwise.
        """
        kwargs.setdefault("eps", batch_norm.eps)
        kwargs.setdefault("affine", batch_norm.affine)
        return cls(batch_norm.num_features, **(device_and_dtype(batch_norm) | kwargs))

    @one_node
    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: ``(N, C)`` or ``(N, C, *)``, floating point.

        Returns:
            Tensor of the input's shape, dtype and memory format.

        Raises:
            ValueError: another rank, channel count or dtype; one value per sample.
        """
        check_input(self.label, input, self.num_features)
        if is_empty(input):
            return unchanged(input, self.parameters())
        weight, bias = self.gate.parameters_for(input)
        return F.mode_group_norm(input, weight.squeeze(-1), bias, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """Return what distinguishes the layer, in torch's form."""
        return f"{self.num_features}, n_components={self.n_components}, eps={self.eps}, affine={self.affine}"
