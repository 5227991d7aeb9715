"""Training flags, which a pass through a model must not change for good."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_untouched(module: nn.Module) -> Iterator[None]:
    """Put the training flag of ``module`` and of each module in it back afterwards."""
    flags = [(child, child.training) for child in module.modules()]
    try:
        yield
    finally:
        for child, flag in flags:
            child.training = flag
