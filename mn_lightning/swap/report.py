"""What a swap replaced: the value that ``swap_norms`` returns, to be printed or inspected."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class SwappedLayer(NamedTuple):
    """One line of a :class:`SwapReport`: qualified name, old and new layer as text, shape ``(C,)`` of the weight.

    Attributes:
        name: qualified name in the model.
        old: as ``BatchNorm2d(64)``.
        new: as ``MixtureNorm(64, n_components=3, em_iters=2, eps=1e-05)``.
        shape: ``(C,)``.

    Examples:
        >>> from mn_lightning import swap_norms
        >>> from torch import nn
        >>> [layer] = swap_norms(nn.Sequential(nn.BatchNorm1d(4)), norm="mode")
        >>> layer.name, layer.old, layer.shape
        ('0', 'BatchNorm1d(4)', (4,))
    """

    name: str
    old: str
    new: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SwapReport:
    """What :func:`~mn_lightning.swap.swap_norms` did.

    Attributes:
        layers: the replaced layers, in the model's order.
        unchanged: names of the layers that had been swapped before.
        not_fused: layer's name to the reason why no activation could be fused, if fusion was asked for.

    Examples:
        >>> from mn_lightning import swap_norms
        >>> from torch import nn
        >>> report = swap_norms(nn.Sequential(nn.BatchNorm1d(4)), norm="mode_group")
        >>> print(report)
        0: BatchNorm1d(4) -> ModeGroupNorm(4, n_components=2, eps=1e-05, affine=True)
        >>> len(report), report.unchanged
        (1, ())
    """

    layers: tuple[SwappedLayer, ...] = ()
    unchanged: tuple[str, ...] = ()
    not_fused: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[SwappedLayer]:
        return iter(self.layers)

    def __add__(self, other: "SwapReport") -> "SwapReport":
        """Join two reports into one."""
        return SwapReport(
            self.layers + other.layers, self.unchanged + other.unchanged, self.not_fused | other.not_fused
        )

    def __str__(self) -> str:
        lines = [f"{layer.name}: {layer.old} -> {layer.new}" for layer in self.layers]
        return "\n".join([*lines, *self.notes]) or "no layer swapped"

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each activation that could not be fused."""
        return tuple(f"{name}: activation not fused, {reason}" for name, reason in self.not_fused.items())
