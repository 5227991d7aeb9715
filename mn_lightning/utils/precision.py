"""Computing in full precision, also under autocast."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")


def full_precision(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Keep autocast from lowering the precision of the products inside ``function``."""

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for value in (*args, *kwargs.values()):  # a generator here takes as long as a small operation of torch's
            if isinstance(value, Tensor):
                device_type = value.device.type
                break
        if device_type == "meta":  # computes nothing, and has no autocast to switch off
            return function(*args, **kwargs)
        if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(device_type):
            return function(*args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return function(*args, **kwargs)

    return wrapper
