"""The layers that take BatchNorm's place: state here, mathematics in :mod:`mn_lightning.functional`."""

from mn_lightning.layers.mixture import MixtureNorm
from mn_lightning.layers.mode import ModeNorm
from mn_lightning.layers.mode_group import ModeGroupNorm

__all__ = ["MixtureNorm", "ModeGroupNorm", "ModeNorm"]
