"""The papers' formulas written out with loops over rows i and components k, in float64: slow and plain.

Nothing here imports the package. Quantities that the papers keep out of the graph (mixtures, posteriors) are numpy;
the normalizations are torch, so that autograd gives reference gradients. Equation and algorithm numbers are those of
Kalayeh & Shah (Eqs. 24-38) and of Deecke, Murray & Bilen (Alg. 1-3).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Params = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights (K,), means (K, D), variances (K, D)


def rows_of(x: Tensor) -> Tensor:
    """(N, C, *) -> (M, C): one row for every sample and pixel."""
    if x.dim() == 2:
        return x
    n, c = x.shape[:2]
    return x.reshape(n, c, -1).permute(0, 2, 1).reshape(-1, c)


def unrows(rows: Tensor, like: Tensor) -> Tensor:
    n, c = like.shape[:2]
    return rows.reshape(n, -1, c).permute(0, 2, 1).reshape(like.shape)


# --- Gaussian mixtures --------------------------------------------------------------------------------------------


def log_gauss(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> float:
    """Logarithm of Eq. 27 with a diagonal covariance."""
    total = 0.0
    for d in range(len(x)):
        total += -0.5 * (math.log(2 * math.pi) + math.log(var[d]) + (x[d] - mean[d]) ** 2 / var[d])
    return total


def log_joint(x: np.ndarray, params: Params, reg: float) -> np.ndarray:
    """log(λ_k p_k(x_i)), (M, K); -inf where λ_k = 0."""
    weights, means, variances = params
    out = np.full((len(x), len(weights)), -np.inf)
    for i in range(len(x)):
        for k in range(len(weights)):
            if weights[k] > 0:
                out[i, k] = math.log(weights[k]) + log_gauss(x[i], means[k], variances[k] + reg)
    return out


def _normalized(row: np.ndarray) -> np.ndarray:
    """exp(row) / Σ exp(row), divided by the largest term first so that it cannot be 0 / 0."""
    e = np.exp(row - row.max())
    return e / e.sum()


def posteriors(x: np.ndarray, params: Params, reg: float) -> np.ndarray:
    """Eq. 31."""
    return np.stack([_normalized(row) for row in log_joint(x, params, reg)])


def mean_log_likelihood(x: np.ndarray, params: Params, reg: float) -> float:
    """Mean over the rows of log p(x), Eq. 26."""
    total = 0.0
    for row in log_joint(x, params, reg):
        total += row.max() + math.log(np.exp(row - row.max()).sum())
    return total / len(x)


def prune(joint: np.ndarray, min_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Mask λ_k < min_weight, renormalize ν over the others; a row whose ν vanishes goes to the best live component."""
    nu = np.stack([_normalized(row) for row in joint])
    share = nu.mean(0)
    alive = [k for k in range(len(share)) if share[k] >= min_weight or share[k] == share.max()]
    out = np.zeros_like(nu)
    for i in range(len(nu)):
        total = sum(nu[i, k] for k in alive)
        if total > 1e-200:
            for k in alive:
                out[i, k] = nu[i, k] / total
        else:
            out[i, max(alive, key=lambda k: joint[i, k])] = 1.0
    return out, out.mean(0)


def kmeans_plus_plus(x: np.ndarray, n_components: int, draws: np.ndarray) -> np.ndarray:
    """Greedy k-means++: of 2 + int(ln K) candidates drawn ∝ D², take the one that leaves the smallest ΣD²."""
    n_candidates = 2 + int(math.log(n_components))
    draws = iter(draws)
    centers = [x[min(int(next(draws) * len(x)), len(x) - 1)]]
    while len(centers) < n_components:
        d2 = np.array([min(((row - c) ** 2).sum() for c in centers) for row in x])
        best, best_left = None, math.inf
        for _ in range(n_candidates):
            target = next(draws) * d2.sum()
            acc, pick = 0.0, len(x) - 1
            for i in range(len(x)):
                acc += d2[i]
                if acc >= target:
                    pick = i
                    break
            left = sum(min(d2[i], ((x[i] - x[pick]) ** 2).sum()) for i in range(len(x)))
            if left < best_left:
                best, best_left = pick, left
        centers.append(x[best])
    return np.stack(centers)


def m_step(x: np.ndarray, resp: np.ndarray, previous_means: np.ndarray) -> Params:
    n_components = resp.shape[1]
    weights = np.zeros(n_components)
    means, variances = previous_means.copy(), np.zeros_like(previous_means)
    for k in range(n_components):
        n_k = resp[:, k].sum()
        weights[k] = n_k / len(x)
        if n_k > 0:
            means[k] = sum(resp[i, k] * x[i] for i in range(len(x))) / n_k
            variances[k] = sum(resp[i, k] * (x[i] - means[k]) ** 2 for i in range(len(x))) / n_k
    return weights, means, variances


def lloyd(x: np.ndarray, centers: np.ndarray, n_iter: int) -> Params:
    """Lloyd iterations; returns the clusters of the last assignment. An empty cluster stays where it is."""
    params: Params = (np.zeros(0), centers, np.zeros(0))
    for _ in range(n_iter):
        resp = np.zeros((len(x), len(centers)))
        for i in range(len(x)):
            resp[i, np.argmin([((x[i] - c) ** 2).sum() for c in params[1]])] = 1
        params = m_step(x, resp, params[1])
    return params


def em(x: np.ndarray, params: Params, n_iter: int, reg: float) -> Params:
    for _ in range(n_iter):
        params = m_step(x, posteriors(x, params, reg), params[1])
    return params


def fit(x: np.ndarray, n_components: int, n_iter: int, draws: np.ndarray, reg: float) -> Params:
    """``n_iter`` counts both phases; an odd one gives the extra iteration to Lloyd."""
    n_lloyd = (n_iter + 1) // 2
    return em(x, lloyd(x, kmeans_plus_plus(x, n_components, draws), n_lloyd), n_iter - n_lloyd, reg)


def moments(x: np.ndarray, params: Params, reg: float, min_weight: float) -> Params:
    """Posteriors, pruning, Eqs. 35-36: what inference stores after a fit."""
    nu, share = prune(log_joint(x, params, reg), min_weight)
    _, means, variances = m_step(x, nu, np.zeros_like(params[1]))
    return share, means, variances


# --- mixture normalization ----------------------------------------------------------------------------------------


def _mixture_norm_rows(
    x: Tensor,
    params: Params,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    eps: float,
    affine: str,
    scale: str,
    activation: Callable[[Tensor], Tensor] | None,
    min_weight: float,
    at: Tensor,
) -> Tensor:
    """Eqs. 34-38 for rows (M, D)."""
    n_rows, n_components = len(x), len(params[0])
    values = x.detach().numpy()
    if training:
        nu, lam = prune(log_joint(values, params, eps), min_weight)
    else:
        nu, lam = posteriors(values, params, eps), params[0]
    alive = [k for k in range(n_components) if lam[k] > 0]
    mu, var = {}, {}
    for k in alive:
        if training:
            total = sum(nu[j, k] for j in range(n_rows))
            nu_hat = [nu[i, k] / total for i in range(n_rows)]  # Eq. 36
            mu[k] = sum(nu_hat[i] * x[i] for i in range(n_rows))
            var[k] = sum(nu_hat[i] * (x[i] - mu[k]) ** 2 for i in range(n_rows))
        else:
            mu[k], var[k] = torch.from_numpy(params[1][k]), torch.from_numpy(params[2][k])
    out = []
    for i in range(n_rows):
        y = torch.zeros(x.shape[1], dtype=torch.float64)
        for k in alive:
            if affine == "component":  # Eq. 37
                x_hat = (at[i] - (mu[k] + bias)) / torch.sqrt(var[k] * weight + eps)
            else:
                x_hat = (at[i] - mu[k]) / torch.sqrt(var[k] + eps)
            if activation is not None:  # Eq. 38
                x_hat = activation(weight * x_hat + bias if affine == "output" else x_hat)
            coefficient = nu[i, k] / (math.sqrt(lam[k]) if scale == "sqrt" else 1.0)
            y = y + coefficient * x_hat
        if affine == "output" and activation is None:
            y = weight * y + bias
        out.append(y)
    return torch.stack(out)


def mixture_norm(
    x: Tensor,
    params: Params,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    eps: float = 1e-5,
    affine: str = "output",
    granularity: str = "layer",
    scale: str = "sqrt",
    activation: Callable[[Tensor], Tensor] | None = None,
    min_weight: float = 0.01,
    at: Tensor | None = None,
) -> Tensor:
    """(N, C, *) in float64; ``params`` as the package's functions take them, (K,) or (K, C), (K, C), (K, C).

    Here and below, the values to be normalized are ``at``, where it is given, and all else is computed from ``x``.
    """
    channels = x.shape[1]
    weight = torch.ones(channels, dtype=torch.float64) if weight is None else weight
    bias = torch.zeros(channels, dtype=torch.float64) if bias is None else bias
    rows, at = rows_of(x), rows_of(x if at is None else at)
    options = (training, eps, affine, scale, activation, min_weight)
    if granularity == "layer":
        return unrows(_mixture_norm_rows(rows, params, weight, bias, *options, at), x)
    columns = []
    for c in range(channels):
        one = (params[0][:, c], params[1][:, c : c + 1], params[2][:, c : c + 1])
        part = slice(c, c + 1)
        columns.append(_mixture_norm_rows(rows[:, part], one, weight[part], bias[part], *options, at[:, part]))
    return unrows(torch.cat(columns, dim=1), x)


# --- mode normalization -------------------------------------------------------------------------------------------


def _gates(logits: list[Tensor]) -> list[Tensor]:
    """Softmax, divided by the largest term first so that none overflows."""
    largest = max(logit.detach() for logit in logits)
    exps = [torch.exp(logit - largest) for logit in logits]
    total = sum(exps)
    return [e / total for e in exps]


def mode_norm(
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    at: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Algorithm 1 (with this batch's moments, Section 3.2) or 2; returns the output and the new running moments.

    The running variance averages the batches' unbiased variances, as BatchNorm's.
    """
    n_samples, channels = x.shape[:2]
    n_modes = len(gate_bias)
    flat = x.reshape(n_samples, channels, -1)
    values = flat if at is None else at.reshape(flat.shape)
    length = flat.shape[2]
    gates = []
    for n in range(n_samples):
        pooled = sum(flat[n, :, j] for j in range(length)) / length
        gates.append(_gates([(gate_weight[k] * pooled).sum() + gate_bias[k] for k in range(n_modes)]))
    means, variances = [], []
    for k in range(n_modes):
        if training or running_mean is None:
            n_k = sum(gates[n][k] for n in range(n_samples)) * length
            first = sum(gates[n][k] * flat[n, :, j] for n in range(n_samples) for j in range(length)) / n_k
            second = (
                sum(gates[n][k] * (flat[n, :, j] - first) ** 2 for n in range(n_samples) for j in range(length)) / n_k
            )
            means.append(first)
            variances.append(second)
        else:
            means.append(running_mean[k])
            variances.append(running_var[k])
    if training and running_mean is not None:
        rows = n_samples * length
        running_mean = torch.stack([momentum * means[k] + (1 - momentum) * running_mean[k] for k in range(n_modes)])
        running_var = torch.stack(
            [momentum * variances[k] * rows / (rows - 1) + (1 - momentum) * running_var[k] for k in range(n_modes)]
        )
        running_mean, running_var = running_mean.detach(), running_var.detach()
    out = []
    for n in range(n_samples):
        y = 0
        for k in range(n_modes):
            y = y + gates[n][k] * (values[n] - means[k][:, None]) / torch.sqrt(variances[k] + eps)[:, None]
        if weight is not None:
            y = weight[:, None] * y
        if bias is not None:
            y = y + bias[:, None]
        out.append(y)
    return torch.stack(out).reshape(x.shape), running_mean, running_var


def mode_group_norm(
    x: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    at: Tensor | None = None,
) -> Tensor:
    """Algorithm 3 and Eq. 5, one sample at a time; moments over channels and pixels."""
    n_samples, channels = x.shape[:2]
    n_modes = len(gate_bias)
    out = []
    for n in range(n_samples):
        sample = x[n].reshape(channels, -1)
        values = sample if at is None else at[n].reshape(sample.shape)
        length = sample.shape[1]
        gates = []
        for c in range(channels):
            pooled = sum(sample[c, j] for j in range(length)) / length
            gates.append(_gates([gate_weight[k] * pooled + gate_bias[k] for k in range(n_modes)]))
        total = 0
        for k in range(n_modes):
            c_k = sum(gates[c][k] for c in range(channels)) * length
            mu = sum(gates[c][k] * sample[c, j] for c in range(channels) for j in range(length)) / c_k
            var = sum(gates[c][k] * (sample[c, j] - mu) ** 2 for c in range(channels) for j in range(length)) / c_k
            total = total + (values - mu) / torch.sqrt(var + eps)
        y = total / n_modes
        if weight is not None:
            y = weight[:, None] * y
        if bias is not None:
            y = y + bias[:, None]
        out.append(y)
    return torch.stack(out).reshape(x.shape)


# --- Fisher vectors -----------------------------------------------------------------------------------------------


def fisher_vector(x: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 33 as printed (Eq. 24 for K = 1): both parts (M, K, D)."""
    weights, means, variances = params
    nu = posteriors(x, params, 0.0)
    part_mu = np.zeros((len(x), *means.shape))
    part_sigma = np.zeros_like(part_mu)
    for i in range(len(x)):
        for k in range(len(weights)):
            if weights[k] > 0:
                z = (x[i] - means[k]) / np.sqrt(variances[k])
                part_mu[i, k] = nu[i, k] / math.sqrt(weights[k]) * z
                part_sigma[i, k] = nu[i, k] / math.sqrt(weights[k]) * (z**2 - 1) / math.sqrt(2)
    return part_mu, part_sigma


def fisher_vector_by_autograd(x: np.ndarray, params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 18 with the F of Eq. 32: the gradient of log p(x), taken by autograd, times F^(-1/2)."""
    weights, means, variances = (torch.from_numpy(p) for p in params)
    part_mu, part_sigma = [], []
    for row in torch.from_numpy(x):
        mu = means.clone().requires_grad_()
        sigma = variances.sqrt().requires_grad_()
        terms = []
        for k in range(len(weights)):
            log_p = torch.distributions.Normal(mu[k], sigma[k]).log_prob(row).sum()
            terms.append(torch.log(weights[k]) + log_p)
        g_mu, g_sigma = torch.autograd.grad(torch.logsumexp(torch.stack(terms), 0), (mu, sigma))
        scale = sigma.detach() / weights.sqrt()[:, None]
        part_mu.append(scale * g_mu)
        part_sigma.append(scale / math.sqrt(2) * g_sigma)
    return torch.stack(part_mu).numpy(), torch.stack(part_sigma).numpy()
