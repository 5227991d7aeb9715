"""Mixture normalization and mode normalization in place of BatchNorm, for any PyTorch or Lightning model."""

from mn_lightning.layers import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.layers.refit import refit_mixtures, reset_queues
from mn_lightning.layers.update import update_norms
from mn_lightning.swap.listing import norm_layers
from mn_lightning.swap.registry import register_norm
from mn_lightning.swap.report import SwapReport
from mn_lightning.swap.surgery import swap_norms

__all__ = [
    "MixtureNorm",
    "ModeGroupNorm",
    "ModeNorm",
    "SwapReport",
    "norm_layers",
    "refit_mixtures",
    "register_norm",
    "reset_queues",
    "swap_norms",
    "update_norms",
]
