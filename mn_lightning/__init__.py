"""Mixture normalization and mode normalization in place of BatchNorm, for any PyTorch or Lightning model."""

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm

__all__ = ["MixtureNorm", "ModeGroupNorm", "ModeNorm"]
