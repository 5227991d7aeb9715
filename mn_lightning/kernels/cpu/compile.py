"""Compiling loops with numba, on first use, for this machine; the result is kept on disk for later processes.

The modules with loops import numba, so they are imported where they are used and not before: importing the package
costs nothing. numba keeps what it compiled beside the source file, or, where that folder is read-only, in the user's
cache folder; ``NUMBA_CACHE_DIR`` names another one.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event as events
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager

Function = TypeVar("Function", bound=Callable[..., Any])

REORDERED = {"contract", "reassoc", "nsz", "arcp"}
"""Freedoms that let sums and products be computed several numbers at once. NaN and infinity keep their meaning."""

AS_WRITTEN = {"contract"}
"""For formulas whose rounding was thought about."""


class _ApartCompiler(CompilerBase):
    """Takes a loop's arrays to lie apart in memory, as they do: else each short loop begins by comparing addresses."""

    def define_pipelines(self) -> list[PassManager]:
        """Return numba's own pipeline."""
        self.state.flags.noalias = True
        self.state.flags.no_cfunc_wrapper = True  # nothing calls the loops from C; each wrapper takes time to compile
        builder: Any = DefaultPassBuilder
        return [builder.define_nopython_pipeline(self.state)]


_logger = logging.getLogger("mn_lightning")
_loops: list[Any] = []
_events: Any = events


def loop(function: Function) -> Function:
    """Compile ``function``, which lets other Python threads run while it does."""
    return _compiled(function, REORDERED)


def formula(function: Function) -> Function:
    """Compile ``function`` without reordering its sums."""
    return _compiled(function, AS_WRITTEN)


def _compiled(function: Function, fastmath: set[str]) -> Function:
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": fastmath,
        "error_model": "numpy",
        "pipeline_class": _ApartCompiler,
    }
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        compiled = numba.njit(**options)(function)
    _loops.append(compiled)
    return cast(Function, compiled)


class _Notice(events.Listener):
    """Says once in a process that loops are compiled: the first step of a training then waits for it."""

    def on_start(self, event: Any) -> None:
        if any(event.data["dispatcher"] is one for one in _loops):
            unregister()
            _logger.warning("mn_lightning compiles its loops for this CPU; it takes some seconds, once on a machine.")

    def on_end(self, event: Any) -> None:
        pass


_notice = _Notice()


def unregister() -> None:
    """Say no more."""
    _events.unregister("numba:compile", _notice)


_events.register("numba:compile", _notice)
