"""Find the activation that follows a norm layer, to put it inside the layer (Eq. 38)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

# Elementwise and without parameters, so that they mean the same on any layout of the activation.
_MODULES = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)
_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")


class Fusable(NamedTuple):
    """The activation after a norm layer, and the module to take out for it, if there is one to take out."""

    activation: Callable[[Tensor], Tensor]
    remove: str | None


class _ShallowTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """One module's own forward is enough, and can be traced where those inside it can not."""
        return True


def find_activation(model: nn.Module, name: str) -> Fusable | str:
    """Follow the output of the layer ``name`` through the modules around it; a str says why there is none to fuse."""
    if _places(model, name) > 1:
        return "the layer is shared"
    path = name
    while path:
        owner_path, child = _caller(model, path)
        owner = model.get_submodule(owner_path)
        label = type(owner).__name__
        try:
            nodes = list(_ShallowTracer().trace(owner).nodes)
        except Exception as error:  # whatever a user's forward raises when it is run on symbols
            return f"the forward of {label} cannot be traced ({str(error).splitlines()[0] if str(error) else error!r})"
        calls = [node for node in nodes if node.op == "call_module" and node.target == child]
        if len(calls) != 1:
            return f"{label} calls it {len(calls)} times"
        users = list(calls[0].users)
        if len(users) != 1:
            return f"{label} uses its output {len(users)} times"
        if users[0].op != "output":
            return _classify(model, owner_path, users[0], nodes)
        if users[0].args[0] is not calls[0]:
            return f"{label} returns its output among others"
        path = owner_path
    return "no activation follows it"


def _classify(model: nn.Module, owner_path: str, user: fx.Node, nodes: list[fx.Node]) -> Fusable | str:
    if user.op == "call_module":
        target = f"{owner_path}.{user.target}".lstrip(".")
        module = model.get_submodule(target)
        if not isinstance(module, _MODULES):
            return f"{type(module).__name__} follows it"
        calls = sum(node.op == "call_module" and node.target == user.target for node in nodes)
        if calls == 1 and _places(model, target) == 1:
            return Fusable(module, target)
        if isinstance(module, nn.ReLU):
            return Fusable(F.relu, None)
        return f"the {type(module).__name__} that follows it is used elsewhere too"
    if user.target in (_RELU_FUNCTIONS if user.op == "call_function" else _RELU_METHODS):
        # It stays where it is: the fused output is a sum of non-negative terms, which ReLU leaves alone.
        return Fusable(F.relu, None)
    return f"{getattr(user.target, '__name__', user.target)} follows it"


def _places(model: nn.Module, name: str) -> int:
    module = model.get_submodule(name)
    return sum(other is module for _, other in model.named_modules(remove_duplicate=False))


def _caller(model: nn.Module, path: str) -> tuple[str, str]:
    """Split ``path`` at the innermost module that has a forward; lists and dicts of modules have none."""
    owner, _, child = path.rpartition(".")
    while owner and isinstance(model.get_submodule(owner), (nn.ModuleList, nn.ModuleDict)):
        owner, _, name = owner.rpartition(".")
        child = f"{name}.{child}"
    return owner, child
