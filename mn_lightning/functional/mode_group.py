"""Mode group normalization, Algorithm 3 of Deecke et al."""

from torch import Tensor

from mn_lightning.functional.rows import check_input, upcast
from mn_lightning.kernels.heads import GroupGates
from mn_lightning.kernels.select import backend_for_samples, gpu_kernels
from mn_lightning.utils.precision import full_precision


@full_precision
def mode_group_norm(
    input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Mode group normalization of Deecke et al., Algorithm 3 and Eq. 5.

    .. math:: y = \frac{\gamma}{K} \sum_k \frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \quad
       g_c = \mathrm{softmax}(w \operatorname{mean}_*(x_c) + b)

    where the moments of mode k are taken over one sample's channels and pixels, channel c weighted by g_ck. The layer
    is the same in training and inference; with K = 1 it is ``GroupNorm(1, C)``.

    Args:
        input: ``(N, C, *)``.
        gate_weight: w, ``(K,)``.
        gate_bias: b, ``(K,)``.
        weight: γ, ``(C,)``.
        bias: β, ``(C,)``.
        eps: added to the variances.

    Returns:
        Tensor of the input's shape, dtype and memory format.

    Raises:
        ValueError: wrong rank or dtype; fewer than two values per sample.

    Examples:
        >>> import torch
        >>> x = torch.randn(2, 6, 8, 8)
        >>> mode_group_norm(x, gate_weight=torch.randn(3), gate_bias=torch.zeros(3)).shape
        torch.Size([2, 6, 8, 8])

        One mode is GroupNorm with one group:

        >>> expected = torch.nn.functional.group_norm(x, num_groups=1)
        >>> torch.allclose(mode_group_norm(x, torch.ones(1), torch.zeros(1)), expected, atol=1e-5)
        True
    """
    check_input("mode_group_norm", input)
    if input.shape[1:].numel() == 1:
        raise ValueError(
            f"mode_group_norm expected more than one value per sample, got input of shape {tuple(input.shape)}"
        )

    gpu = gpu_kernels(input, len(gate_bias))
    if gpu is not None:
        y: Tensor = gpu.mode_group_norm(input, gate_weight, gate_bias, weight, bias, eps)
        return y
    x = upcast(input)
    parameters = gate_weight, gate_bias, weight, bias
    y = backend_for_samples(x).sample_affine(x, True, GroupGates(eps), parameters)[0]
    return y.to(input.dtype)
