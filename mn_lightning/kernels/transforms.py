"""Which of torch's function transforms a computation is inside."""

import torch
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad


def takes_tangents() -> bool:
    """Whether forward-mode derivatives are taken, by ``torch.func.jvp`` or :mod:`torch.autograd.forward_ad`."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def maps_over_samples() -> bool:
    """Whether the computation is inside ``torch.func.vmap``."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    return any(interpreter.key() == TransformType.Vmap for interpreter in retrieve_all_functorch_interpreters())
