"""Types for the norms' names and arguments, for editors and type checkers."""

from collections.abc import Callable
from typing import NewType, TypedDict

from torch import Tensor

from mn_lightning.functional.mode import RunningVariance
from mn_lightning.functional.rows import Granularity
from mn_lightning.kernels.types import Affine, Scale
from mn_lightning.layers.queue import RowsPerBatch

NormName = NewType("NormName", str)
"""A norm that the types do not list: one from ``register_norm``, or a class by its import path.

``swap_norms(model, norm=NormName("timm.layers.FilterResponseNormTlu2d"))``; at run time, it is a string.
"""


class MixtureArguments(TypedDict, total=False):
    """Arguments of the norm ``mixture`` but for ``sync``, see :class:`~mn_lightning.MixtureNorm`."""

    n_components: int
    em_iters: int
    eps: float
    affine: Affine | None
    granularity: Granularity
    scale: Scale
    activation: Callable[[Tensor], Tensor] | None
    queue_size: int
    queue_decay: float
    queue_rows_per_batch: RowsPerBatch
    fit_rows: int | None
    refit_iters: int | None
    min_weight: float


class SyncedMixtureArguments(MixtureArguments, total=False):
    """All arguments of the norm ``mixture``; ``NormSwapCallback`` takes ``sync`` beside them."""

    sync: bool


class ModeArguments(TypedDict, total=False):
    """Arguments of the norm ``mode`` but for ``sync``, see :class:`~mn_lightning.ModeNorm`."""

    n_components: int
    eps: float
    momentum: float | None
    affine: bool
    running: RunningVariance


class SyncedModeArguments(ModeArguments, total=False):
    """All arguments of the norm ``mode``; ``NormSwapCallback`` takes ``sync`` beside them."""

    sync: bool


class ModeGroupArguments(TypedDict, total=False):
    """Arguments of the norm ``mode_group``, see :class:`~mn_lightning.ModeGroupNorm`."""

    n_components: int
    eps: float
    affine: bool


class BatchArguments(TypedDict, total=False):
    """Arguments of the norm ``batch``: BatchNorm layers that stay."""

    momentum: float


class GroupArguments(TypedDict, total=False):
    """Arguments of the norm ``group``; give one of them."""

    num_groups: int
    channels_per_group: int


class NoArguments(TypedDict):
    """Arguments of the norms ``instance`` and ``layer``: none."""
