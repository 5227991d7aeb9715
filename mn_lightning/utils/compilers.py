"""What torch.compile is told about a function, without importing torch's compiler."""

from collections.abc import Callable
from typing import TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])


def constant_when_compiled(function: _Function) -> _Function:
    """Let torch.compile take what ``function`` returns as a constant.

    It is what ``torch.compiler.assume_constant_result`` does, which imports the compiler: importing a layer would then
    take twice as long as importing torch.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
