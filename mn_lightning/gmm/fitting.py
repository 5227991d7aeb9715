"""Lloyd's algorithm and expectation maximization, for a fixed number of iterations."""

from torch import Tensor

from mn_lightning.kernels.select import backend_for_rows, gpu_kernels
from mn_lightning.kernels.types import Mixture
from mn_lightning.utils.distributed import ALONE, Processes


def fit(
    x: Tensor, n_components: int, n_iter: int, step: Tensor, reg_covar: float, processes: Processes = ALONE
) -> Mixture:
    """Fit by greedy k-means++, then Lloyd iterations, then EM; ``n_iter`` counts both phases, as the papers do.

    An odd count gives the extra iteration to Lloyd.

    Args:
        x: observations, ``(G, B, M, D)``.
        n_components: K >= 1.
        n_iter: iterations in all, >= 1.
        step: int64 tensor with one element, from which all random choices are made.
        reg_covar: added to the variances in densities.
        processes: those that have the rows between them; each passes its own and gets the mixture of all.

    Returns:
        Weights ``(G, K)``, means and variances ``(G, K, D)``.

    Examples:
        >>> import torch
        >>> x = torch.randn(1, 1, 500, 8)
        >>> mixture = fit(x, n_components=3, n_iter=2, step=torch.tensor(0), reg_covar=1e-5)
        >>> [tuple(part.shape) for part in mixture]
        [(1, 3), (1, 3, 8), (1, 3, 8)]
    """
    n_em = n_iter // 2
    backend = backend_for_rows(x)
    mixture: Mixture = backend.fit(x, n_components, n_iter - n_em, n_em, step, reg_covar, processes)
    return mixture


def lloyd(
    x: Tensor, centers: Tensor, n_iter: int, processes: Processes = ALONE, origin: Tensor | None = None
) -> Mixture:
    """Run ``n_iter`` >= 1 Lloyd iterations of k-means from ``centers`` ``(G, K, D)``.

    Args:
        x: observations, ``(G, B, M, D)``.
        centers: to start from.
        n_iter: number of assignments to the nearest centre.
        processes: those that have the rows between them.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Returns:
        The mixture of the last hard assignment: weight, mean and variance of each cluster. A cluster
        that lost all its rows keeps its centre and has weight 0.

    Examples:
        >>> import torch
        >>> x = torch.tensor([0.0, 2.0, 7.0, 9.0]).reshape(1, 1, 4, 1)
        >>> lloyd(x, centers=torch.tensor([[[0.0], [2.0]]]), n_iter=3).means.flatten()
        tensor([1., 8.])
    """
    gpu = gpu_kernels(x, centers.shape[1], processes, x.shape[-1]) if len(x) == 1 else None
    found: Mixture
    if gpu is not None:
        found = gpu.lloyd(x, centers, n_iter, origin)
    else:
        found = backend_for_rows(x).lloyd(x, centers, n_iter, origin, processes)
    return found


def em(
    x: Tensor,
    mixture: Mixture,
    n_iter: int,
    reg_covar: float,
    processes: Processes = ALONE,
    origin: Tensor | None = None,
) -> Mixture:
    """Run ``n_iter`` >= 0 iterations of expectation maximization from ``mixture``.

    Args:
        x: observations, ``(G, B, M, D)``.
        mixture: weights ``(G, K)``, means and variances ``(G, K, D)``.
        n_iter: number of E and M steps.
        reg_covar: added to the variances in densities.
        processes: those that have the rows between them.
        origin: what observations and means are relative to, ``(G, 1, D)``, 0 by default.

    Returns:
        Mixture of the same shapes.

    Examples:
        >>> import torch
        >>> from mn_lightning.gmm import log_joint
        >>> x = torch.randn(1, 1, 200, 3)
        >>> start = lloyd(x, centers=x[:, 0, :2], n_iter=1)
        >>> before, after = (log_joint(x, m, 1e-6).logsumexp(-1).mean() for m in (start, em(x, start, 10, 1e-6)))
        >>> bool(after > before)  # the log-likelihood never falls
        True
    """
    gpu = gpu_kernels(x, mixture.weights.shape[1], processes, x.shape[-1]) if len(x) == 1 else None
    found: Mixture
    if gpu is not None:
        found = gpu.em(x, mixture, n_iter, reg_covar, origin)
    else:
        found = backend_for_rows(x).em(x, mixture, n_iter, reg_covar, origin, processes)
    return found
