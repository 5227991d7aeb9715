"""The kernels as operations of torch, with shapes for tensors without values and with gradients.

So compilers and exports can take each as one step and need not look inside. What is computed here and now calls what
stands behind the operations. Gradients that are to be differentiated again (gradient
penalties) are those of the plain formulas, see :mod:`mn_lightning.kernels.triton.formulas`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from mn_lightning.kernels.inner_graph import differentiable_gradients
from mn_lightning.kernels.triton import mixture, samples
from mn_lightning.kernels.triton.formulas import plain_mixture_norm, plain_mode_group_norm, plain_mode_norm
from mn_lightning.kernels.triton.rows import dense_like
from mn_lightning.kernels.types import Mixture

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
    forward: Callable[..., tuple[Tensor, ...]],
    setup: Callable[..., None],
    gradients: Callable[..., Gradients],
    backward: tuple[Callable[..., Any], Callable[..., Any]],
    wanted: Callable[[tuple[Tensor, ...]], Any] = itemgetter(0),
) -> Callable[..., Any]:
    """Give an operation gradients; and return the same without torch's dispatcher, which would only cost time.

    Args:
        name: of the operation.
        forward: what it calls.
        setup: keeps what the gradients need.
        gradients: called with one of ``backward`` first.
        backward: operation and function that compute them.
        wanted: takes out of all outputs what is returned.
    """
    operation, function = (partial(gradients, call) for call in backward)
    torch.library.register_autograd(f"mn_lightning::{name}", operation, setup_context=setup, lib=_library)

    def run(ctx: Any, *inputs: Any) -> Any:  # a setup_context of its own would have torch look at signatures each time
        output = forward(*inputs)
        setup(ctx, inputs, output)
        return wanted(output)

    methods: dict[str, Any] = {"forward": run, "backward": function}
    made: Any = type(name, (torch.autograd.Function,), {key: staticmethod(value) for key, value in methods.items()})
    applied: Callable[..., Any] = made.apply
    return applied


def _new(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _present(function: Callable[..., Gradients]) -> Callable[..., tuple[Tensor, ...]]:
    """``function`` with an empty tensor for each None: operations have no optional outputs."""

    def run(first: Tensor, *others: Any) -> tuple[Tensor, ...]:
        return tuple(first.new_empty(0) if out is None else out for out in function(first, *others))

    return run


def _like(x: Tensor, *parameters: Tensor | None) -> Gradients:
    return dense_like(x), *(None if of is None else torch.empty_like(of) for of in parameters)


def _for_present(gradients: Gradients, tensors: tuple[Tensor | None, ...]) -> Gradients:
    return tuple(None if of is None else gradient for gradient, of in zip(gradients, tensors, strict=True))


# --- mixtures -----------------------------------------------------------------------------------------------------


def _some_mixture(x: Tensor, components: int) -> mixture.Moments:
    return _new(x, components), _new(x, components, x.shape[1]), _new(x, components, x.shape[1])


fit = _define(
    "fit(Tensor x, Tensor step, int components, int lloyd, int em, float eps, int? fit_rows)"
    " -> (Tensor, Tensor, Tensor)",
    mixture.fit,
    lambda x, step, components, *_: _some_mixture(x, components),
)


moments = _define(
    "moments(Tensor x, Tensor weights, Tensor means, Tensor variances, float eps, float min_weight) -> Tensor",
    mixture.moments,
    lambda x, weights, *_: _new(x, len(weights) * (1 + 2 * x.shape[1])),
)

_MAP = "Tensor? gamma, Tensor? beta, float eps, bool inside, bool sqrt, float? leak"


def _train(
    x: Tensor, weights: Tensor | None, means: Tensor | None, variances: Tensor | None, step: Tensor | None,
    components: int, lloyd: int, em: int, min_weight: float,
    gamma: Tensor | None, beta: Tensor | None, eps: float, inside: bool, sqrt: bool, leak: float | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    start = None if weights is None or means is None or variances is None else (weights, means, variances)
    fit = mixture.Fit(lloyd, em, step) if start is None else None
    return mixture.normalize(x, start, fit, components, min_weight, gamma, beta, eps, inside, sqrt, leak)


def _rows(x: Tensor) -> int:
    return x.shape[0] * x.shape[2:].numel()


mixture_norm_training = _define(
    # Under a mixture, or where it is None, under one that is fitted as a function of `step`.
    "mixture_norm_training(Tensor x, Tensor? weights, Tensor? means, Tensor? variances, Tensor? step, int components,"
    f" int lloyd, int em, float min_weight, {_MAP}) -> (Tensor, Tensor, Tensor, Tensor)",
    _train,
    lambda x, weights, means, variances, step, components, *_: (
        dense_like(x),
        _new(x, components, _rows(x)),
        _new(x, components * (1 + 2 * x.shape[1])),
        x.new_empty((), dtype=torch.bool),
    ),
)


def _evaluate(
    x: Tensor, weights: Tensor, means: Tensor, variances: Tensor, store: bool,
    gamma: Tensor | None, beta: Tensor | None, eps: float, inside: bool, sqrt: bool, leak: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return mixture.evaluate(x, (weights, means, variances), store, gamma, beta, eps, inside, sqrt, leak)


mixture_norm_evaluation = _define(
    f"mixture_norm_evaluation(Tensor x, Tensor weights, Tensor means, Tensor variances, bool store, {_MAP})"
    " -> (Tensor, Tensor)",
    _evaluate,
    lambda x, weights, means, variances, store, *_: (
        dense_like(x),
        _new(x, len(weights) if store else 0, _rows(x)),
    ),
)


def _mixture_backward(
    dy: Tensor, x: Tensor, nu: Tensor, weights: Tensor, means: Tensor, variances: Tensor, through_moments: bool,
    gamma: Tensor | None, beta: Tensor | None, eps: float, inside: bool, sqrt: bool, leak: float | None,
) -> Gradients:  # fmt: skip
    moments_ = weights, means, variances
    return mixture.backward(dy, x, nu, moments_, gamma, beta, eps, inside, sqrt, leak, through_moments)


mixture_norm_backward = _define(
    "mixture_norm_backward(Tensor dy, Tensor x, Tensor nu, Tensor weights, Tensor means, Tensor variances,"
    f" bool through_moments, {_MAP}) -> (Tensor, Tensor, Tensor)",
    _present(_mixture_backward),
    _present(lambda dy, x, nu, weights, means, variances, through_moments, gamma, beta, *_: _like(x, gamma, beta)),
)


def _keep_training(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *_, gamma, beta, eps, inside, sqrt, leak = inputs
    _, nu, found, _ = output
    ctx.save_for_backward(x, gamma, beta, nu, found)
    ctx.set_materialize_grads(False)
    ctx.options = eps, inside, sqrt, leak


def _keep_evaluation(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weights, means, variances, _, gamma, beta, *ctx.options = inputs
    ctx.save_for_backward(x, gamma, beta, output[1], weights, means, variances)
    ctx.set_materialize_grads(False)


def _training_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gamma, beta, nu, found = ctx.saved_tensors
    start = mixture.unpacked(found, len(nu))
    dx, dgamma, dbeta = _mixture_gradients(call, ctx, dy, x, gamma, beta, nu, start, True)
    return dx, None, None, None, None, None, None, None, None, dgamma, dbeta, None, None, None, None


def _evaluation_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gamma, beta, nu, *start = ctx.saved_tensors
    dx, dgamma, dbeta = _mixture_gradients(call, ctx, dy, x, gamma, beta, nu, start, False)
    return dx, None, None, None, None, dgamma, dbeta, None, None, None, None


def _mixture_gradients(
    call: Callable[..., Any], ctx: Any, dy: Tensor | None, x: Tensor, gamma: Tensor | None, beta: Tensor | None,
    nu: Tensor, start: Sequence[Tensor], through_moments: bool,
) -> Gradients:  # fmt: skip
    if dy is None:
        return None, None, None
    if torch.is_grad_enabled():
        y = plain_mixture_norm(x, gamma, beta, nu, Mixture(*start), ctx.options, through_moments)
        return tuple(differentiable_gradients(y, dy, (x, gamma, beta)))
    return _for_present(call(dy, x, nu, *start, through_moments, gamma, beta, *ctx.options), (x, gamma, beta))


_MIXTURE = mixture_norm_backward, _mixture_backward
train_mixture = _differentiable(
    "mixture_norm_training", _train, _keep_training, _training_gradients, _MIXTURE, itemgetter(0, 3)
)
evaluate_mixture = _differentiable(
    "mixture_norm_evaluation", _evaluate, _keep_evaluation, _evaluation_gradients, _MIXTURE
)

push = _define(
    "push(Tensor x, Tensor step, Tensor finite, Tensor(a!) pushes, Tensor(b!) rows, Tensor(c!) counts,"
    " Tensor(d!) totals) -> ()",
    mixture.push,
    lambda *_: None,
)


# --- modes --------------------------------------------------------------------------------------------------------


def _mode_norm(
    x: Tensor, gate_weight: Tensor, gate_bias: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    gamma: Tensor | None, beta: Tensor | None, eps: float, training: bool, momentum: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    running = None if running_mean is None or running_var is None else (running_mean, running_var)
    return samples.mode_norm(x, gate_weight, gate_bias, running, gamma, beta, eps, training, momentum)


mode_norm = _define(
    # An operation with gradients writes to none of its inputs: in training, the running moments are None.
    "mode_norm(Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? running_mean, Tensor? running_var,"
    " Tensor? gamma, Tensor? beta, float eps, bool training, float momentum) -> (Tensor, Tensor)",
    _mode_norm,
    lambda x, gate_weight, *_: (dense_like(x), _new(x, samples.numbers_kept(x, len(gate_weight)))),
)


def _mode_norm_backward(
    dy: Tensor, x: Tensor, gate_weight: Tensor, gate_bias: Tensor, running_mean: Tensor | None,
    running_var: Tensor | None, gamma: Tensor | None, beta: Tensor | None, kept: Tensor, eps: float,
) -> Gradients:  # fmt: skip
    running = None if running_mean is None or running_var is None else (running_mean, running_var)
    return samples.mode_norm_backward(dy, x, gate_weight, gate_bias, running, gamma, beta, kept, eps)


mode_norm_backward = _define(
    "mode_norm_backward(Tensor dy, Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? running_mean,"
    " Tensor? running_var, Tensor? gamma, Tensor? beta, Tensor kept, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _present(_mode_norm_backward),
    _present(
        lambda dy, x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, *_: _like(
            x, gate_weight, gate_bias, gamma, beta
        )
    ),
)


def _keep_modes(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, ctx.eps, training, _ = inputs
    running = (None, None) if training else (running_mean, running_var)
    ctx.save_for_backward(x, gate_weight, gate_bias, *running, gamma, beta, output[1])
    ctx.set_materialize_grads(False)


def _mode_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, kept = ctx.saved_tensors
    if dy is None:
        return (None,) * 10
    learned = x, gate_weight, gate_bias, gamma, beta
    found: Gradients
    if torch.is_grad_enabled():
        y = plain_mode_norm(x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, ctx.eps)
        found = tuple(differentiable_gradients(y, dy, learned))
    else:
        found = call(dy, x, gate_weight, gate_bias, running_mean, running_var, gamma, beta, kept, ctx.eps)
        found = _for_present(found, learned)
    return *found[:3], None, None, *found[3:], None, None, None


normalize_modes = _differentiable(
    "mode_norm", _mode_norm, _keep_modes, _mode_gradients, (mode_norm_backward, _mode_norm_backward)
)


mode_group_norm = _define(
    "mode_group_norm(Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? gamma, Tensor? beta, float eps)"
    " -> (Tensor, Tensor)",
    samples.mode_group_norm,
    lambda x, gate_weight, *_: (dense_like(x), _new(x, samples.numbers_kept(x, len(gate_weight), True))),
)
mode_group_norm_backward = _define(
    "mode_group_norm_backward(Tensor dy, Tensor x, Tensor gate_weight, Tensor gate_bias, Tensor? gamma, Tensor? beta,"
    " Tensor kept, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _present(samples.mode_group_norm_backward),
    _present(lambda dy, x, gate_weight, gate_bias, gamma, beta, *_: _like(x, gate_weight, gate_bias, gamma, beta)),
)


def _keep_groups(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _group_gradients(call: Callable[..., Any], ctx: Any, dy: Tensor | None, *_: Any) -> Gradients:
    x, gate_weight, gate_bias, gamma, beta, kept = ctx.saved_tensors
    if dy is None:
        return (None,) * 6
    learned = x, gate_weight, gate_bias, gamma, beta
    if torch.is_grad_enabled():
        y = plain_mode_group_norm(x, gate_weight, gate_bias, gamma, beta, ctx.eps)
        return *differentiable_gradients(y, dy, learned), None
    return *_for_present(call(dy, *learned, kept, ctx.eps), learned), None


normalize_groups = _differentiable(
    "mode_group_norm",
    samples.mode_group_norm,
    _keep_groups,
    _group_gradients,
    (mode_group_norm_backward, samples.mode_group_norm_backward),
)
