"""Find the activation that follows a norm layer, so that it can be put inside the layer (Eq. 38)."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from mn_lightning.layers.activation import out_of_place

_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")


class Fusable(NamedTuple):
    """The activation after a norm layer.

    Attributes:
        activation: the module to put inside the layer; never one that works in place.
        remove: name of the module to take out of the network; None if the activation is a function or has to stay.
    """

    activation: Callable[[Tensor], Tensor]
    remove: str | None


class _ShallowTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Traces one module's own forward only: it can often be traced when the modules inside it cannot."""
        return True


def find_activation(model: nn.Module, name: str) -> Fusable | str:
    """Follow the output of the layer ``name`` through the modules that use it.

    Modules that do nothing, such as Identity and Dropout(0), are passed through.

    Returns:
        The activation, or the reason why there is none to fuse.
    """
    if _places(model, name) > 1:
        return "the layer is shared"
    path = name
    while path:
        owner_path, child = _caller(model, path)
        owner = model.get_submodule(owner_path)
        label = type(owner).__name__
        try:
            nodes = list(_ShallowTracer().trace(owner).nodes)
        except Exception as error:  # a user's forward can raise anything when it is traced
            return f"the forward of {label} cannot be traced ({str(error).splitlines()[0] if str(error) else error!r})"
        calls = [node for node in nodes if node.op == "call_module" and node.target == child]
        if len(calls) != 1:
            return f"{label} calls it {len(calls)} times"
        node = calls[0]
        while True:
            users = list(node.users)
            if len(users) != 1:
                return f"{label} uses its output {len(users)} times"
            if users[0].op != "call_module" or not does_nothing(owner.get_submodule(str(users[0].target))):
                break
            node = users[0]
        if users[0].op != "output":
            return _classify(owner, owner_path, users[0], nodes)
        if users[0].args[0] is not node:
            return f"{label} returns its output among others"
        path = owner_path
    return "no activation follows it"


def fusable_module(module: nn.Module, path: str) -> Fusable | str:
    """Return ``module`` as an activation that can be fused, or what it is instead."""
    if is_activation(module):
        return Fusable(out_of_place(module), path)
    return f"{type(module).__name__} follows it"


def _classify(owner: nn.Module, owner_path: str, user: fx.Node, nodes: list[fx.Node]) -> Fusable | str:
    if user.op == "call_module":
        module = owner.get_submodule(str(user.target))
        found = fusable_module(module, f"{owner_path}.{user.target}".lstrip("."))
        calls = sum(node.op == "call_module" and node.target == user.target for node in nodes)
        if isinstance(found, str) or calls == 1:
            return found  # other parents that hold the same module keep it
        if isinstance(module, nn.ReLU):
            return Fusable(F.relu, None)
        return f"the {type(module).__name__} that follows it is used elsewhere too"
    if user.target in (_RELU_FUNCTIONS if user.op == "call_function" else _RELU_METHODS):
        # It stays where it is: the fused output is a sum of non-negative terms, which ReLU leaves alone.
        return Fusable(F.relu, None)
    return f"{getattr(user.target, '__name__', user.target)} follows it"


# --- what a module computes ---------------------------------------------------------------------------------------


def does_nothing(module: nn.Module) -> bool:
    """Whether ``module`` returns its input, in training and in evaluation."""
    if _holds_tensors(module):
        return False
    x = _trial()
    return all(y is not None and torch.equal(y, x) for y in (_outputs(module, x, flag) for flag in (True, False)))


def is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is a fixed function of each single value, the same in training and evaluation.

    Such a function means the same on any layout of an activation. The module is tried out, because libraries have
    classes of their own.
    """
    if _holds_tensors(module) or does_nothing(module):
        return False
    x = _trial()
    whole = [_outputs(module, x, flag) for flag in (True, True, False)]
    single = [_outputs(module, number.reshape(1, 1, 1, 1), False) for number in x.flatten()]
    if any(y is None for y in (*whole, *single)):
        return False
    one_by_one = torch.cat([y.flatten() for y in single if y is not None])
    return all(
        y is not None and y.shape == x.shape and torch.allclose(y.flatten(), one_by_one, atol=1e-6) for y in whole
    )


def _holds_tensors(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(), *module.buffers()))


def _trial() -> Tensor:
    return torch.linspace(-3, 4, 8, device="cpu").reshape(2, 2, 2, 1)


@torch.no_grad()
def _outputs(module: Any, x: Tensor, training: bool) -> Tensor | None:
    """The output of a copy of ``module`` for ``x``; None if it cannot take ``x``."""
    try:
        y = type(module).forward(copy.deepcopy(module).train(training), x.clone())
    except Exception:
        return None
    return y if isinstance(y, Tensor) else None


# --- where a module stands ----------------------------------------------------------------------------------------


def _places(model: nn.Module, name: str) -> int:
    """The number of places in which the module ``name`` stands."""
    module = model.get_submodule(name)
    return sum(other is module for _, other in model.named_modules(remove_duplicate=False))


def _caller(model: nn.Module, path: str) -> tuple[str, str]:
    """Split ``path`` at the innermost module that has a forward; ModuleList and ModuleDict have none."""
    owner, _, child = path.rpartition(".")
    while owner and isinstance(model.get_submodule(owner), (nn.ModuleList, nn.ModuleDict)):
        owner, _, name = owner.rpartition(".")
        child = f"{name}.{child}"
    return owner, child
