"""The kernels as operations of torch, with shapes for tensors without values and with gradients.

So compilers and exports can take each as one step and need not look inside. What is computed here and now calls what
stands behind the operations. Gradients that are to be differentiated again (gradient
penalties) are those of the plain formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mn_lightning.kernels import reference
from mn_lightning.kernels.inner_graph import differentiable_gradients
from mn_lightning.kernels.triton import mixture, samples
from mn_lightning.kernels.types import Mixture, NormOptions, mean_of

_library: Any = torch.library.Library("mn_lightning", "FRAGMENT")  # type: ignore[no-untyped-call]

Gradients = tuple[Tensor | None, ...]


def _define(schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema[: schema.index("(")]
    _library.define(schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"mn_lightning::{name}", fake, lib=_library)
    return getattr(torch.ops.mn_lightning, name).default


def _differentiable(
    name: str,
    forward: Callable[..., Any],
    setup: Callable[..., None],
    gradients: Callable[..., Gradients],
    backward: tuple[Callable[..., Any], Callable[..., Any]],
) -> Callable[..., tuple[Tensor, ...]]:
    """Give an operation gradients; and return the same without torch's dispatcher, which would only cost time.

    Args:
        name: of the operation.
        forward: what it calls.
        setup: keeps what the gradients need.
        gradients: called with one of ``backward`` first.
        backward: operation and function that compute them.
    """
    operation, function = (partial(gradients, call) for call in backward)
    torch.library.register_autograd(f"mn_lightning::{name}", operation, setup_context=setup, lib=_library)

    def run(ctx: Any, *inputs: Any) -> Any:  # a setup_context of its own would have torch look at signatures each time
        output = forward(*inputs)
        setup(ctx, inputs, output)
        return output

    methods: dict[str, Any] = {"forward": run, "backward": function}
    made: Any = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})
    applied: Callable[..., tuple[Tensor, ...]] = made.apply
    return applied


def _new(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _cast(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return None if gradient is None or parameter is None else gradient.to(parameter.dtype)


# --- mixtures -----------------------------------------------------------------------------------------------------


def _fit(
    x: Tensor, step: Tensor, components: int, lloyd: int, em: int, eps: float, fit_rows: int | None
) -> mixture.Moments:
    return mixture.fit(x, step, components, lloyd, em, eps, fit_rows)


def _some_mixture(x: Tensor, step: Tensor, components: int, *_: Any) -> mixture.Moments:
    return _new(x, components), _new(x, components, x.shape[1]), _new(x, components, x.shape[1])


fit = _define(
    "fit(Tensor x, Tensor step, int components, int lloyd, int em, float eps, int? fit_rows)"
    " -> (Tensor, Tensor, Tensor)",
    _fit,
    _some_mixture,
)


def _moments(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor, eps: float, min_weight: float) -> Any:
    return mixture.posteriors_and_moments(x, (weights, means, variances), eps, min_weight)[1]


moments = _define(
    "moments(Tensor x, Tensor weights, Tensor means, Tensor variances, float eps, float min_weight)"
    " -> (Tensor, Tensor, Tensor)",
    _moments,
    lambda x, weights, *_: _some_mixture(x, x, len(weights)),
)

_MAP = "Tensor? gamma, Tensor? beta, float eps, bool inside, bool sqrt, float? leak"


def _train(
    x: Tensor, weights: Tensor, means: Tensor, variances: Tensor, min_weight: float,
    gamma: Tensor | None, beta: Tensor | None, eps: float, inside: bool, sqrt: bool, leak: float | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    nu, found = mixture.posteriors_and_moments(x, (weights, means, variances), eps, min_weight)
    y, _ = mixture.apply(x, nu, found, gamma, beta, eps, inside, sqrt, leak)
    return y, nu, *found


def _rows(x: Tensor) -> int:
    return x.shape[0] * x.shape[2:].numel()


mixture_norm_training = _define(
    f"mixture_norm_training(Tensor x, Tensor weights, Tensor means, Tensor variances, float min_weight, {_MAP})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _train,
    lambda x, weights, *_: (torch.empty_like(x), _new(x, len(weights), _rows(x)), *_some_mixture(x, x, len(weights))),
)


def _evaluate(
    x: Tensor, weights: Tensor, means: Tensor, variances: Tensor, store: bool,
    gamma: Tensor | None, beta: Tensor | None, eps: float, inside: bool, sqrt: bool, leak: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return mixture.apply(x, None, (weights, means, variances), gamma, beta, eps, inside, sqrt, leak, store)


mixture_norm_evaluation = _define(
    f"mixture_norm_evaluation(Tensor x, Tensor weights, Tensor means, Tensor variances, bool store, {_MAP})"
    " -> (Tensor, Tensor)",
    _evaluate,
    lambda x, weights, means, variances, store, *_: (
        torch.empty_like(x),
        _new(x, len(weights) if store else 0, _rows(x)),
    ),
)


def _mixture_backward(
    dy: Tensor, x: Tensor, nu: Tensor, weights: Tensor, means: Tensor, variances: Tensor, through_moments: bool,
    gamma: Tensor | None, beta: Tensor | None, eps: float, inside: bool, sqrt: bool, leak: float | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    moments_ = weights, means, variances
    return mixture.backward(dy, x, nu, moments_, gamma, beta, eps, inside, sqrt, leak, through_moments)


mixture_norm_backward = _define(
    "mixture_norm_backward(Tensor dy, Tensor x, Tensor nu, Tensor weights, Tensor means, Tensor variances,"
    f" bool through_moments, {_MAP}) -> (Tensor, Tensor, Tensor)",
    _mixture_backward,
    lambda dy, x, *_: (torch.empty_like(x), _new(x, x.shape[1]), _new(x, x.shape[1])),
)


def _keep_training(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, _, _, _, gamma, beta, *ctx.options = inputs
    ctx.save_for_backward(x, gamma, beta, *output[1:])
    ctx.set_materialize_grads(False)
    ctx.through_moments = True


def _keep_evaluation(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weights, means, variances, _, gamma, beta, *ctx.options = inputs
    ctx.save_for_backward(x, gamma, beta, output[1], weights, means, variances)
    ctx.set_materialize_grads(False)
    ctx.through_moments = False


def _mixture_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gamma, beta, nu, *moments_ = ctx.saved_tensors
    if dy is None:
        return (None,) * 11
    if torch.is_grad_enabled():
        y = _plain_mixture_norm(x, gamma, beta, nu, Mixture(*moments_), ctx.options, ctx.through_moments)
        dx, dgamma, dbeta = differentiable_gradients(y, dy, (x, gamma, beta))
    else:
        dx, dgamma, dbeta = call(dy, x, nu, *moments_, ctx.through_moments, gamma, beta, *ctx.options)
        dgamma, dbeta = _cast(dgamma, gamma), _cast(dbeta, beta)
    return dx, None, None, None, None, dgamma, dbeta, None, None, None, None


def _plain_mixture_norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, nu: Tensor, found: Mixture,
    how: tuple[float, bool, bool, float | None], through_moments: bool,
) -> Tensor:  # fmt: skip
    eps, inside, sqrt, leak = how
    wide = x.float()
    rows = (wide.unsqueeze(2) if x.dim() == 2 else wide.flatten(2)).mT.unsqueeze(0)
    packed = Mixture(*(t.unsqueeze(0) for t in found))
    origin = mean_of(packed)
    rows, packed = rows - origin.unsqueeze(1), packed._replace(means=packed.means - origin)
    nu = nu.mT.reshape(1, *rows.shape[1:3], -1)
    if through_moments:
        counts = packed.weights * _rows(x)
        packed = Mixture(packed.weights, *reference.batch_moments(rows, nu, counts))
    options = NormOptions(
        through_moments,
        eps,
        "component" if inside else "output",
        "sqrt" if sqrt else "unit",
        None if leak is None else lambda before: torch.nn.functional.leaky_relu(before, leak),
        0.0,
    )
    gamma, beta = (None if t is None else t.float().reshape(1, 1, -1) for t in (gamma, beta))
    y = reference.normalize(rows, nu, packed, gamma, beta, options)
    return y.squeeze(0).mT.reshape(x.shape).to(x.dtype)


_MIXTURE = mixture_norm_backward, _mixture_backward
train_mixture = _differentiable("mixture_norm_training", _train, _keep_training, _mixture_gradients, _MIXTURE)
evaluate_mixture = _differentiable("mixture_norm_evaluation", _evaluate, _keep_evaluation, _mixture_gradients, _MIXTURE)

all_finite = _define(
    "all_finite(Tensor means, Tensor variances) -> Tensor",
    mixture.all_finite,
    lambda means, _: means.new_empty((), dtype=torch.bool),
)
push = _define(
    "push(Tensor x, Tensor step, Tensor finite, Tensor pushes, Tensor(a!) rows, Tensor(b!) counts) -> ()",
    mixture.push,
    lambda *_: None,
)


# --- modes --------------------------------------------------------------------------------------------------------


def _mode_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor | None, beta: Tensor | None, eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    if running_mean is None or running_var is None:
        return samples.mode_norm(x, gate_weight, gate_bias, None, gamma, beta, eps)
    y, _, _, *others = samples.mode_norm(x, gate_weight, gate_bias, (running_mean, running_var), gamma, beta, eps)
    return y, _new(x, 0), _new(x, 0), *others


def _some_modes(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, running_mean: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    modes, features = gate_weight.shape
    padded = samples.columns_for(modes)
    if running_mean is None:
        of_modes = _new(x, modes, features), _new(x, modes, features)
        within, share = _new(x, *x.shape[:2]), _new(x, x.shape[0], padded)
    else:
        of_modes, within, share = (_new(x, 0), _new(x, 0)), _new(x, 0), _new(x, 0, padded)
    return torch.empty_like(x), *of_modes, _new(x, *x.shape[:2]), within, _new(x, x.shape[0], padded), share


mode_norm = _define(
    "mode_norm(Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? running_mean, Tensor? running_var,"
    " Tensor? gamma, Tensor? beta, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _mode_norm,
    _some_modes,
)
mode_norm_backward = _define(
    "mode_norm_backward(Tensor dy, Tensor x, Tensor gate_weight, Tensor? gamma, Tensor mode_mean, Tensor mode_var,"
    " Tensor mean, Tensor within, Tensor log_gates, Tensor share, float eps, bool through_moments)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    samples.mode_norm_backward,
    lambda dy, x, gate_weight, *_: (
        torch.empty_like(x),
        _new(x, *gate_weight.shape),
        _new(x, len(gate_weight)),
        _new(x, x.shape[1]),
        _new(x, x.shape[1]),
    ),
)


def _keep_modes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, ctx.eps = inputs
    _, mode_mean, mode_var, *others = output
    ctx.through_moments = running_mean is None
    moments_ = (mode_mean, mode_var) if ctx.through_moments else (running_mean, running_var)
    ctx.save_for_backward(x, gate_weight, gate_bias, gamma, beta, *moments_, *others)
    ctx.set_materialize_grads(False)


def _mode_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gate_weight, gate_bias, gamma, beta, *kept = ctx.saved_tensors
    if dy is None:
        return (None,) * 8
    if torch.is_grad_enabled():
        y = _plain_mode_norm(x, gate_weight, gate_bias, None if ctx.through_moments else kept[:2], gamma, beta, ctx.eps)
        found: Sequence[Tensor | None] = differentiable_gradients(y, dy, (x, gate_weight, gate_bias, gamma, beta))
    else:
        dx, *found = call(dy, x, gate_weight, gamma, *kept, ctx.eps, ctx.through_moments)
        found = dx, *map(_cast, found, (gate_weight, gate_bias, gamma, beta))
    return *found[:3], None, None, *found[3:], None


def _plain_mode_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, running: Sequence[Tensor] | None,
    gamma: Tensor | None, beta: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    flat = x.float().reshape(*x.shape[:2], -1)
    var, mean = torch.var_mean(flat, dim=2, correction=0)
    log_gates = (mean @ gate_weight.float().mT + gate_bias.float()).log_softmax(1)
    if running is None:
        share = log_gates.softmax(0)
        mode_mean = share.mT @ mean
        apart = mean.unsqueeze(1) - mode_mean
        mode_var = (share.unsqueeze(2) * (apart.square() + var.unsqueeze(1))).sum(0)
    else:
        mode_mean, mode_var = (t.float() for t in running)
    inverse = (mode_var + eps).rsqrt()
    gates = log_gates.exp()
    y = flat * (gates @ inverse).unsqueeze(2) - (gates @ (inverse * mode_mean)).unsqueeze(2)
    return _affine(y, gamma, beta).reshape(x.shape).to(x.dtype)


def _affine(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        y = y * gamma.float().unsqueeze(1)
    return y if beta is None else y + beta.float().unsqueeze(1)


normalize_modes = _differentiable(
    "mode_norm", _mode_norm, _keep_modes, _mode_gradients, (mode_norm_backward, samples.mode_norm_backward)
)

average = _define(
    "average(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, float momentum, int rows) -> ()",
    lambda running_mean, running_var, mean, var, momentum, rows: samples.average(
        (running_mean, running_var), (mean, var), momentum, rows
    ),
    lambda *_: None,
)

mode_group_norm = _define(
    "mode_group_norm(Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? gamma, Tensor? beta, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    samples.mode_group_norm,
    lambda x, gate_weight, *_: (
        torch.empty_like(x),
        _new(x, *x.shape[:2]),
        _new(x, *x.shape[:2]),
        _new(x, x.shape[0], 2),
        _new(x, x.shape[0], 4, samples.columns_for(len(gate_weight))),
    ),
)
mode_group_norm_backward = _define(
    "mode_group_norm_backward(Tensor dy, Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? gamma, Tensor mean,"
    " Tensor within, Tensor of_samples, Tensor stats, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    samples.mode_group_norm_backward,
    lambda dy, x, gate_weight, *_: (
        torch.empty_like(x),
        _new(x, len(gate_weight)),
        _new(x, len(gate_weight)),
        _new(x, x.shape[1]),
        _new(x, x.shape[1]),
    ),
)


def _keep_groups(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.set_materialize_grads(False)


def _group_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gate_weight, gate_bias, gamma, beta, *kept = ctx.saved_tensors
    if dy is None:
        return (None,) * 6
    if torch.is_grad_enabled():
        y = _plain_mode_group_norm(x, gate_weight, gate_bias, gamma, beta, ctx.eps)
        return *differentiable_gradients(y, dy, (x, gate_weight, gate_bias, gamma, beta)), None
    dx, *found = call(dy, x, gate_weight, gate_bias, gamma, *kept, ctx.eps)
    return dx, *map(_cast, found, (gate_weight, gate_bias, gamma, beta)), None


def _plain_mode_group_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> Tensor:
    flat = x.float().reshape(*x.shape[:2], -1)
    var, mean = torch.var_mean(flat, dim=2, correction=0, keepdim=True)
    share = (mean * gate_weight.float() + gate_bias.float()).log_softmax(2).softmax(1)
    mode_mean = (share * mean).sum(1, keepdim=True)
    inverse = ((share * (var + (mean - mode_mean).square())).sum(1, keepdim=True) + eps).rsqrt()
    y = flat * inverse.mean(2, keepdim=True) - (mode_mean * inverse).mean(2, keepdim=True)
    return _affine(y, gamma, beta).reshape(x.shape).to(x.dtype)


normalize_groups = _differentiable(
    "mode_group_norm",
    samples.mode_group_norm,
    _keep_groups,
    _group_gradients,
    (mode_group_norm_backward, samples.mode_group_norm_backward),
)
