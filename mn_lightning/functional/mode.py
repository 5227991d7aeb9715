"""Mode normalization, Algorithms 1 and 2 of Deecke et al."""

from typing import Literal

import torch
from torch import Tensor

from mn_lightning.functional.rows import check_input, check_rows, upcast
from mn_lightning.kernels.heads import BatchGates, RunningGates
from mn_lightning.kernels.select import backend_for_samples, gpu_kernels
from mn_lightning.kernels.types import Head
from mn_lightning.utils.distributed import ALONE, Processes
from mn_lightning.utils.precision import full_precision

RunningVariance = Literal["within", "total"]
"""What ModeNorm's running variance is of: the batches', or also their means' among themselves (Algorithm 1)."""


@full_precision
def mode_norm(
    input: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    processes: Processes = ALONE,
    running: RunningVariance = "within",
) -> Tensor:
    r"""Mode normalization of Deecke et al., Algorithms 1 and 2.

    .. math:: y_n = \gamma \sum_k g_{nk} \frac{x_n - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta, \quad
       g_n = \mathrm{softmax}(W \operatorname{mean}_*(x_n) + b)

    In training, μ_k and σ²_k are this batch's moments weighted by the gates, with gradients through the gates (the
    text of Section 3.2; the listing of Algorithm 1 prints the running ones). As the gates are constant over ``*``,
    the layer is one affine map per sample and channel. The running variance averages unbiased variances as
    BatchNorm's does, instead of Algorithm 1's second moments, whose difference loses its digits where the mean is
    large; with constant gates the layer then equals BatchNorm in evaluation too. It leaves out how much the means of
    batches differ among themselves, which Algorithm 1's second moments contain: ``running="total"`` adds that, in the
    stable form ``v <- (1-m) v + m s² + m (1-m) (mean - μ)²``, with s² as printed, not unbiased.

    Args:
        input: ``(N, C, *)``.
        gate_weight: W, ``(K, C)``.
        gate_bias: b, ``(K,)``.
        running_mean: ``(K, C)``, updated in place in training, used otherwise.
        running_var: ``(K, C)``, likewise.
        weight: γ, ``(C,)``.
        bias: β, ``(C,)``.
        training: whether to normalize with this batch's moments; also done where there are no running ones.
        momentum: weight of the new value in the running moments.
        eps: added to the variances.
        processes: where this batch's moments are used, those that hold it between them.
        running: ``"within"`` or ``"total"``, see above.

    Returns:
        Tensor of the input's shape, dtype and memory format.

    Raises:
        ValueError: wrong rank or dtype; in training, fewer than two values per channel.

    Examples:
        >>> x, weight, bias = torch.randn(16, 4, 8, 8), torch.randn(2, 4), torch.zeros(2)
        >>> mean, var = torch.zeros(2, 4), torch.ones(2, 4)
        >>> mode_norm(x, weight, bias, mean, var, training=True).shape
        torch.Size([16, 4, 8, 8])
        >>> bool((mean != 0).all())  # updated in place
        True

        Gates that are the same for all samples make it BatchNorm:

        >>> expected = torch.nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(mode_norm(x, 0 * weight, bias), expected, atol=1e-5)
        True
    """
    check_input("mode_norm", input)
    use_batch = training or running_mean is None or running_var is None
    if use_batch and processes.size == 1:
        check_rows("mode_norm", input)
    y: Tensor
    gpu = gpu_kernels(input, len(gate_bias), processes)
    if gpu is not None and isinstance(momentum, float) and running == "within":
        tracked = None if running_mean is None or running_var is None else (running_mean, running_var)
        y = gpu.mode_norm(input, gate_weight, gate_bias, tracked, weight, bias, training, momentum, eps)
        return y
    x = upcast(input)
    if running_mean is None or running_var is None or training:
        head: Head = BatchGates(eps, input.shape[2:].numel(), processes)
    else:
        head = RunningGates(running_mean, running_var, eps)
    parameters = gate_weight, gate_bias, weight, bias
    y, *moments = backend_for_samples(x).sample_affine(x, use_batch, head, parameters)
    if training and running_mean is not None and running_var is not None:
        if isinstance(momentum, Tensor):
            momentum = momentum.to(x.dtype)
        with torch.no_grad():
            mean, var = (moment.detach() for moment in moments)
            if running == "total":
                (rows,) = processes.sum(x.new_tensor(x.shape[0] * x.shape[2:].numel()))
                between = (1 - momentum) * (mean - running_mean.to(x.dtype)).square()
                var = var * (1 - 1 / rows) + between
            for tracked_moment, new in ((running_mean, mean), (running_var, var)):
                if tracked_moment.dtype == new.dtype:
                    tracked_moment.lerp_(new, momentum)
                else:
                    tracked_moment.copy_(tracked_moment.to(new.dtype).lerp(new, momentum))
    return y.to(input.dtype)
